"""Passages and questions of the retrieval benchmark, in the formats of the public sets, and a small set of its own.

Formats, JSON lines (gzipped or not), told by their fields:
- passages: ``id``, ``text`` (rules); ``source``, ``doc_id``, ``focus``, ``text`` (health pages); ``title``, ``text``;
- questions: ``question`` with ``gold_passage_ids``, with ``source`` and ``doc_id``, or with ``gold_titles``.

Guarantees: a passage with an id that was there before is kept beside it and counts as the same; a question whose
passages are all missing is left out and counted. Not guaranteed: that passages not marked as gold do not answer.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core.errors import UsageError


class BadSet(UsageError):
    """A file is no list of passages or questions: see benchmarks/_questions.py for the formats."""


@dataclass(frozen=True)
class Passage:
    """What is searched. ``key`` is what questions name; several passages may share one."""

    key: str
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """What is asked, and the keys of the passages that answer it."""

    text: str
    gold: frozenset[str]


@dataclass(frozen=True)
class Set:
    """Passages and the questions about them."""

    passages: list[Passage]
    questions: list[Question]
    num_left_out: int = 0
    tuning: list[Question] = field(default_factory=list)


def load(passages: Sequence[Path], questions: Path, *, tune_on: Path | None = None, limit: int | None = None) -> Set:
    """Read a set; with a limit, so many questions, evenly taken, and ten times as many passages, theirs first.

    Raises:
        BadSet: a file cannot be read, has another format, or no question is about a passage.
    """
    found = [passage_of(row) for path in passages for row in read_lines(path)]
    known = {passage.key for passage in found}
    asked = [question_of(row) for row in read_lines(questions)]
    kept = _limited([question for question in asked if question.gold & known], limit)
    tuning = [question_of(row) for row in read_lines(tune_on)] if tune_on else []
    if not kept:
        raise BadSet(f"no question of {questions} is about a passage of {passages[0]}: name files of one set")
    if limit is not None:
        wanted = frozenset[str]().union(*(question.gold for question in kept))
        found = sorted(found, key=lambda passage: passage.key not in wanted)[: max(10 * limit, len(wanted))]
    left_out = sum(not question.gold & known for question in asked)
    return Set(found, kept, left_out, [question for question in tuning if question.gold & known])


def made_up(*, num: int = 300) -> Set:
    """A small set: each passage says one thing, half the questions say it in other words."""
    places = [f"{first}{last}" for first in ("Kirk", "Wester", "Stan", "Holm", "Ash", "Thorn") for last in ENDINGS]
    facts = [(place, *thing) for place in places for thing in THINGS][:num]
    passages = [Passage(f"p{n}", place, f"{thing} {place} {says}.") for n, (place, thing, says, _) in enumerate(facts)]
    questions = [
        Question(f"{other} {place}?" if n % 2 else f"What about {thing.lower()} {place}?", frozenset({f"p{n}"}))
        for n, (place, thing, _, other) in enumerate(facts)
    ]
    return Set(passages, questions[::2] + questions[1::2], 0, [])


ENDINGS = ("ham", "by", "ton", "ford", "field", "mouth", "wick", "dale", "burn", "bridge")
THINGS = (
    ("The ferry of", "leaves every forty minutes until nine in the evening", "When does the boat sail from"),
    ("The mayor of", "is elected for four years by all who live there", "How is the head of the town chosen in"),
    ("A loan at the bank of", "costs six percent a year", "What interest is charged on borrowed money in"),
    ("The library of", "lends ten books for three weeks", "How long may I keep novels taken out in"),
    ("The doctor in", "sees patients on weekdays from eight to noon", "What are the surgery hours of the physician in"),
)


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Rows of a JSON lines file; BadSet says what is wrong with it."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise BadSet(f"cannot read {path} as JSON lines ({error}): name a .jsonl or .jsonl.gz") from error


def passage_of(row: dict[str, Any]) -> Passage:
    """A row of passages."""
    try:
        key = str(row["id"]) if "id" in row else f"{row['source']}/{row['doc_id']}" if "doc_id" in row else row["title"]
        return Passage(key, row.get("focus") or row.get("title") or "", row["text"])
    except KeyError as error:
        raise BadSet(f"a passage has no field {error}: see benchmarks/_questions.py for the formats") from error


def question_of(row: dict[str, Any]) -> Question:
    """A row of questions."""
    try:
        if "doc_id" in row:
            return Question(row["question"], frozenset({f"{row['source']}/{row['doc_id']}"}))
        return Question(row["question"], frozenset(map(str, row.get("gold_passage_ids") or row["gold_titles"])))
    except KeyError as error:
        raise BadSet(f"a question has no field {error}: see benchmarks/_questions.py for the formats") from error


def _limited(questions: list[Question], limit: int | None) -> list[Question]:
    step = max(1, len(questions) // limit) if limit else 1
    return questions[::step][:limit]
