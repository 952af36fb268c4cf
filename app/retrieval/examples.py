"""What an encoder and a re-ranker learn from: questions, chunks that answer, and chunks that look as if they did. Pure.

The encoder has all chunks for negatives, the re-ranker hard ones: the best hits of the index's own hybrid search that
do not answer. Left out are twins of a chunk that answers (most of their words are the same) and hits that the search
puts far above it (probably answers, unmarked). Source: Xiong et al., ANCE (ICLR 2021); the guard by a margin, Moreira
et al., NV-Retriever (2024).

Guarantees: a chunk that answers is never a negative; half of what is held out is about chunks that nobody trains on;
the same questions, hits and seed give the same examples. Not guaranteed: that every negative is one.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.core.errors import UsageError
from app.core.files import replace_text
from app.core.settings import Settings
from app.core.text import words
from app.retrieval.fusion import Candidates, fuse
from app.retrieval.settings import SearchSettings, TuneSettings

EXAMPLES_FILE = "examples.json"
MIN_PAIRS, MIN_HELD_OUT = 40, 10


class TooFewPairs(UsageError):
    """There are too few questions to tune on: synthesize or label more, or take the base as it is."""


class Example(Settings):
    """A question, rows of the chunk table that answer it, and hard negatives, the hardest first."""

    question: str
    """As it is asked."""

    gold: tuple[int, ...]
    """Rows that answer."""

    negatives: tuple[int, ...] = ()
    """Rows that do not, but are found."""


class Examples(Settings):
    """All that workers learn from."""

    read: tuple[str, ...]
    """What of each chunk a re-ranker reads."""

    train: tuple[Example, ...]
    """The questions that are trained on."""

    def write(self, folder: Path) -> None:
        """Write to a run's folder."""
        replace_text(folder / EXAMPLES_FILE, self.model_dump_json())

    @classmethod
    def of(cls, folder: Path) -> Self:
        """What ``write`` wrote."""
        return cls.model_validate_json((folder / EXAMPLES_FILE).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Split:
    """Places of questions: to train on, and held out."""

    train: list[int]
    held_out: list[int]


def split(gold: Sequence[frozenset[int]], *, settings: TuneSettings) -> Split:
    """Hold out questions: half are whole groups that share a chunk, by chains of shared chunks too, half as they come.

    So the figures are those of chunks that were never trained on and of others, as users ask about both.

    Raises:
        TooFewPairs: one of the sides would be too small to mean anything.
    """
    groups = list(groups_of(gold))
    random.Random(settings.seed).shuffle(groups)
    wanted = min(settings.max_held_out, round(settings.held_out_share * len(gold)))
    held_out: list[int] = []
    for group in groups:
        if len(held_out) + len(group) <= wanted / 2:
            held_out += group
    rest = sorted(set(range(len(gold))) - set(held_out))
    held_out += random.Random(settings.seed).sample(rest, min(len(held_out), len(rest)))
    left = sorted(set(rest) - set(held_out))
    if len(left) < MIN_PAIRS or len(held_out) < MIN_HELD_OUT:
        said = f"{len(left)} questions to train on and {len(held_out)} to choose by, about different chunks"
        raise TooFewPairs(f"{said}; {MIN_PAIRS} and {MIN_HELD_OUT} are needed: synthesize or label more questions")
    return Split(left, sorted(held_out))


def groups_of(gold: Sequence[frozenset[int]]) -> Iterator[list[int]]:
    """Places of questions, those in one list that share a chunk, by chains of shared chunks too."""
    parent: dict[int, int] = {}

    def top(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for rows in gold:
        first, *others = sorted(rows)
        for row in others:
            parent[top(row)] = top(first)
    members: dict[int, list[int]] = {}
    for place, rows in enumerate(gold):
        members.setdefault(top(min(rows)), []).append(place)
    yield from members.values()


def negatives_of(
    found: Candidates, gold: frozenset[int], texts: Sequence[str], *, search: SearchSettings, settings: TuneSettings
) -> tuple[int, ...]:
    """Rows of hard negatives, the best hits first.

    Args:
        texts: of all chunks, by row.
    """
    import numpy as np

    fused = fuse(found, search)
    best = {int(found.rows[place]): float(fused[place]) for place in np.argsort(-fused, kind="stable")}
    known = [score for row, score in best.items() if row in gold]
    limit = max(known) + settings.max_lead if known else float("inf")
    answers = [words_of(texts[row]) for row in sorted(gold)]
    return tuple(
        row
        for row in list(best)[: settings.negatives_from]
        if row not in gold
        and best[row] <= limit
        and texts[row].strip()
        and all(_overlap(words_of(texts[row]), each) <= settings.max_overlap for each in answers)
    )


def words_of(text: str) -> frozenset[str]:
    """The different words of a text."""
    return frozenset(words(text))


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, len(a | b))


def batches(examples: Sequence[Example], *, size: int, epochs: float, seed: int, apart: bool) -> list[list[Example]]:
    """Steps over examples, shuffled anew in every epoch, each for one of its chunks and in turn.

    Args:
        apart: no two questions of a batch are answered by one chunk, so that what answers a question is no negative
            of it; a batch that nothing fits into any more is smaller.
    """
    steps: list[list[Example]] = []
    wanted, epoch = round(epochs * len(examples)), 0
    while wanted > 0:
        drawn = random.Random(f"{seed}/{epoch}")
        order = [_drawn(each, epoch, drawn) for each in drawn.sample(list(examples), len(examples))][:wanted]
        steps += _apart(order, size) if apart else [order[n : n + size] for n in range(0, len(order), size)]
        wanted, epoch = wanted - len(order), epoch + 1
    return steps


def _drawn(example: Example, epoch: int, drawn: random.Random) -> Example:
    """The example with the chunk that answers in this epoch put first, and its negatives in another order."""
    turn = epoch % len(example.gold)
    negatives = tuple(drawn.sample(example.negatives, len(example.negatives)))
    return Example(question=example.question, gold=example.gold[turn:] + example.gold[:turn], negatives=negatives)


def _apart(order: list[Example], size: int) -> list[list[Example]]:
    steps: list[list[Example]] = []
    while order:
        batch: list[Example] = []
        taken: set[int] = set()
        later: list[Example] = []
        for each in order:
            if len(batch) < size and taken.isdisjoint(each.gold):
                batch.append(each)
                taken.update(each.gold)
            else:
                later.append(each)
        steps.append(batch)
        order = later
    return steps


def examples_of(
    asked: Mapping[str, frozenset[int]],
    found: Sequence[Candidates],
    texts: Sequence[str],
    *,
    search: SearchSettings,
    settings: TuneSettings,
) -> list[Example]:
    """Questions with their negatives; ``found`` are the candidates of each, in order."""
    return [
        Example(
            question=question,
            gold=tuple(sorted(gold)),
            negatives=negatives_of(each, gold, texts, search=search, settings=settings),
        )
        for (question, gold), each in zip(asked.items(), found, strict=True)
    ]
