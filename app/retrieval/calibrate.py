"""The weight of vectors against words, from questions whose chunks are known.

How: every question is searched once for both parts' candidates; the weights 0, 0.05 .. 1 rank them anew; the middle of
the weights whose nDCG@10 lies within one standard error of the best is taken.

Guarantees: the same index and questions give the same weight. Not guaranteed: that the questions are asked as users
ask; synthetic ones share words with their chunks and lean towards BM25.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from app.core.errors import UsageError
from app.retrieval.filters import Scope
from app.retrieval.fusion import Candidates, fuse
from app.retrieval.measure import ndcg
from app.retrieval.search import SearchIndex
from app.retrieval.settings import SearchSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = tuple(round(step / 20, 2) for step in range(21))
MIN_QUESTIONS = 30
MAX_QUESTIONS = 1000
DEPTH = 10


class TooFewQuestions(UsageError):
    """Too few questions are about chunks of the index: name others, or leave them out to take the default weight."""


@dataclass(frozen=True)
class Calibrated:
    """A weight, and how well it, words alone and vectors alone rank the questions' chunks (nDCG@10)."""

    weight: float
    num_questions: int
    ndcg_at_10: float
    ndcg_at_10_lexical: float
    ndcg_at_10_dense: float

    def to_json(self) -> dict[str, Any]:
        """The figures, for a manifest."""
        return asdict(self)


def gold_of(rows: Iterable[Mapping[str, Any]], index: SearchIndex, *, most: int = MAX_QUESTIONS) -> dict[str, set[int]]:
    """Questions with the rows of the index that answer them: by chunk id, else by the document's source.

    At most ``most``, evenly taken from all.

    Raises:
        TooFewQuestions: there are fewer than ``MIN_QUESTIONS``.
    """
    found: dict[str, set[int]] = {}
    for row in rows:
        if places := index.places(chunk_id=row.get("chunk_id"), source=row.get("source")):
            found.setdefault(row["question"], set()).update(places)
    if len(found) < MIN_QUESTIONS:
        raise TooFewQuestions(
            f"{len(found)} questions are about chunks of this index, and {MIN_QUESTIONS} are needed: name others, "
            "or leave --questions out to take the default weight"
        )
    step = -(-len(found) // most)
    return dict(list(found.items())[::step])


def calibrate_weight(index: SearchIndex, asked: Mapping[str, set[int]], vectors: "NDArray[np.float32]") -> Calibrated:
    """The weight for an index.

    Args:
        asked: questions with the rows that answer them.
        vectors: embeddings of the questions, in their order.
    """
    num = index.settings.num_candidates
    found = index.candidates(list(asked), vectors, num=num, scope=Scope(labels=None))
    return best_weight(found, list(asked.values()), settings=index.settings)


def best_weight(
    found: Sequence[Candidates], gold: Sequence[Collection[int]], *, settings: SearchSettings
) -> Calibrated:
    """The weight that ranks candidates best, given the rows that answer each question; all else as the settings say."""
    import numpy as np

    tried = [settings.model_copy(update={"fusion": "convex", "dense_weight": weight}) for weight in WEIGHTS]
    gains = np.zeros((len(found), len(WEIGHTS)))
    for place, (each, wanted) in enumerate(zip(found, gold, strict=True)):
        for column, how in enumerate(tried):
            fused = fuse(each, how)
            order = np.argsort(-fused, kind="stable")[:DEPTH]
            gains[place, column] = ndcg([int(row) in wanted for row in each.rows[order]], num_relevant=len(wanted))
    means = gains.mean(axis=0)
    best = int(means.argmax())
    slack = gains[:, best].std() / np.sqrt(len(gains))
    plateau = [weight for weight, mean in zip(WEIGHTS, means, strict=True) if mean >= means[best] - slack]
    weight = min(WEIGHTS, key=lambda each: abs(each - (plateau[0] + plateau[-1]) / 2))
    chosen = float(means[WEIGHTS.index(weight)])
    return Calibrated(weight, len(gains), chosen, float(means[0]), float(means[-1]))
