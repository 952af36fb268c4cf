"""From labelled questions to what a tuning reads: split, mine, and keep what the choice is made on. No Ray."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.retrieval.bank import Bank
from app.retrieval.choose import HeldOut
from app.retrieval.examples import Examples, examples_of, split
from app.retrieval.filters import Scope
from app.retrieval.fusion import Candidates
from app.retrieval.search import SearchIndex
from app.retrieval.settings import TuneSettings
from app.retrieval.shards import Local

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.inference.encoder import Encoder


@dataclass(frozen=True)
class Prepared:
    """What workers learn from, and what the driver chooses on."""

    examples: Examples
    held_out: HeldOut
    search: SearchIndex
    bank: Bank
    parts: Local
    """Of ``search``."""
    found: list[Candidates]
    """What the index finds for each question that is trained on."""
    vectors: "NDArray[np.float32]"
    """Of the questions held out, by the base."""


def prepare(
    asked: Mapping[str, Collection[int]],
    search: SearchIndex,
    encoder: "Encoder",
    *,
    bank: Bank,
    parts: Local,
    read: Sequence[str],
    settings: TuneSettings,
) -> Prepared:
    """Split questions with the rows that answer them, and mine hard negatives with the index's own search.

    Args:
        encoder: of questions to the index.
        bank: the vectors of its chunks.
        parts: of the index, whose BM25 learnt nothing yet.
        read: what of each chunk a re-ranker reads.

    Raises:
        TooFewPairs: there are not enough questions.
    """
    questions, gold = list(asked), [frozenset(rows) for rows in asked.values()]
    cut = split(gold, settings=settings)
    how = search.settings
    vectors = encoder.encode(questions)
    found = search.candidates(questions, vectors, num=how.num_candidates, scope=Scope(labels=None))
    train = examples_of(
        {questions[place]: gold[place] for place in cut.train}, [found[place] for place in cut.train], read,
        search=how, settings=settings,
    )  # fmt: skip
    held_out = HeldOut(*([each[place] for place in cut.held_out] for each in (questions, gold, found)))  # type: ignore[arg-type]
    met = {row for each in train for row in (*each.gold, *each.negatives)}
    bank = bank.limited(met, most=settings.encoder_chunks)
    given = Examples(read=tuple(read), train=tuple(train))
    return Prepared(given, held_out, search, bank, parts, [found[place] for place in cut.train], vectors[cut.held_out])
