"""From labelled questions to what a tuning reads: split, mine, and keep what the choice is made on. No Ray."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.retrieval.bank import Bank
from app.retrieval.choose import HeldOut
from app.retrieval.examples import Examples, examples_of, split
from app.retrieval.filters import Scope
from app.retrieval.search import SearchIndex
from app.retrieval.settings import TuneSettings

if TYPE_CHECKING:
    from app.inference.encoder import Encoder


@dataclass(frozen=True)
class Prepared:
    """What workers learn from, and what the driver chooses on."""

    examples: Examples
    held_out: HeldOut
    search: SearchIndex
    bank: Bank


def prepare(
    asked: Mapping[str, Collection[int]],
    search: SearchIndex,
    encoder: "Encoder",
    *,
    bank: Bank,
    read: Sequence[str],
    settings: TuneSettings,
) -> Prepared:
    """Split questions with the rows that answer them, and mine hard negatives with the index's own search.

    Args:
        encoder: of questions to the index.
        bank: the vectors of its chunks.
        read: what of each chunk a re-ranker reads.

    Raises:
        TooFewPairs: there are not enough questions.
    """
    questions, gold = list(asked), [frozenset(rows) for rows in asked.values()]
    parts = split(gold, settings=settings)
    how = search.settings
    found = search.candidates(questions, encoder.encode(questions), num=how.num_candidates, scope=Scope(labels=None))
    train = examples_of(
        {questions[place]: gold[place] for place in parts.train}, [found[place] for place in parts.train], read,
        search=how, settings=settings,
    )  # fmt: skip
    held_out = HeldOut(*([each[place] for place in parts.held_out] for each in (questions, gold, found)))  # type: ignore[arg-type]
    met = {row for each in train for row in (*each.gold, *each.negatives)}
    bank = bank.limited(met, most=settings.encoder_chunks)
    return Prepared(Examples(read=tuple(read), train=tuple(train)), held_out, search, bank)
