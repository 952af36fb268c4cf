"""The weights of a search, of vectors against words and of a title that is named, from questions with known answers.

How: every question is searched once for both parts' candidates, which the weights 0, 0.05 .. 1 of the vectors rank
anew; the middle of those whose nDCG@10 lies within one standard error of the best is taken. The same is done under each
of ``TITLE_WEIGHTS``; the settings' own stays unless another is better, question by question, by more than two standard
errors.

Guarantees: the same index and questions give the same weights. Not guaranteed: that the questions are asked as users
ask; synthetic ones share words with their chunks, and more or fewer titles than users name.
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
TITLE_WEIGHTS = (0.0, 0.15, 0.3, 0.6)
SURE = 2.0
MIN_QUESTIONS = 30
MAX_QUESTIONS = 1000
DEPTH = 10


class TooFewQuestions(UsageError):
    """Too few questions are about chunks of the index: name others, or leave them out to take the default weight."""


@dataclass(frozen=True)
class Calibrated:
    """The weights, and how well they, words alone and vectors alone rank the questions' chunks (nDCG@10)."""

    dense_weight: float
    title_weight: float
    num_questions: int
    ndcg_at_10: float
    ndcg_at_10_lexical: float
    ndcg_at_10_dense: float

    def to_json(self) -> dict[str, Any]:
        """The figures, for a manifest."""
        return asdict(self)

    def settings(self) -> dict[str, float]:
        """What of the settings of a search it replaces."""
        return {"dense_weight": self.dense_weight, "title_weight": self.title_weight}


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


def calibrate_weights(index: SearchIndex, asked: Mapping[str, set[int]], vectors: "NDArray[np.float32]") -> Calibrated:
    """The weights for an index.

    Args:
        asked: questions with the rows that answer them.
        vectors: embeddings of the questions, in their order.
    """
    num = index.settings.num_candidates
    found = index.candidates(list(asked), vectors, num=num, scope=Scope(labels=None))
    return best_weights(found, list(asked.values()), settings=index.settings)


def best_weights(
    found: Sequence[Candidates], gold: Sequence[Collection[int]], *, settings: SearchSettings
) -> Calibrated:
    """The weights that rank candidates best, given the rows that answer each question; all else as the settings say."""
    own = _try(found, gold, settings)
    if not any(each.titles.any() for each in found):
        return own.calibrated()
    others = [_try(found, gold, settings.model_copy(update={"title_weight": weight})) for weight in TITLE_WEIGHTS]
    best = max(others, key=lambda each: float(each.chosen.mean()))
    change = best.chosen - own.chosen
    better = change.mean() > SURE * change.std() / len(change) ** 0.5
    return (best if better else own).calibrated()


def best_weight(
    found: Sequence[Candidates], gold: Sequence[Collection[int]], *, settings: SearchSettings
) -> Calibrated:
    """As ``best_weights``, with the title's weight as the settings have it."""
    return _try(found, gold, settings).calibrated()


@dataclass(frozen=True)
class _Tried:
    """nDCG@10 of every question (n) under each of ``WEIGHTS``, with one weight of titles, and the column chosen."""

    title_weight: float
    gains: "NDArray[np.float64]"
    column: int

    @property
    def chosen(self) -> "NDArray[np.float64]":
        """Every question's under the weight chosen."""
        column: NDArray[np.float64] = self.gains[:, self.column]
        return column

    def calibrated(self) -> Calibrated:
        means = self.gains.mean(axis=0)
        figures = [float(means[column]) for column in (self.column, 0, -1)]
        return Calibrated(WEIGHTS[self.column], self.title_weight, len(self.gains), *figures)


def _try(found: Sequence[Candidates], gold: Sequence[Collection[int]], settings: SearchSettings) -> _Tried:
    import numpy as np

    tried = [settings.model_copy(update={"fusion": "convex", "dense_weight": weight}) for weight in WEIGHTS]
    gains = np.zeros((len(found), len(WEIGHTS)))
    for place, (each, wanted) in enumerate(zip(found, gold, strict=True)):
        for column, how in enumerate(tried):
            fused = fuse(each, how)
            order = np.argsort(-fused, kind="stable")[:DEPTH]
            gains[place, column] = ndcg([int(row) in wanted for row in each.rows[order]], num_relevant=len(wanted))
    return _Tried(settings.title_weight, gains, _middle(gains))


def _middle(gains: "NDArray[np.float64]") -> int:
    """The column in the middle of those that are as good as the best, within one standard error."""
    means = gains.mean(axis=0)
    best = int(means.argmax())
    slack = gains[:, best].std() / len(gains) ** 0.5
    plateau = [weight for weight, mean in zip(WEIGHTS, means, strict=True) if mean >= means[best] - slack]
    weight = min(WEIGHTS, key=lambda each: abs(each - (plateau[0] + plateau[-1]) / 2))
    return WEIGHTS.index(weight)
