"""Task sets: read from a folder, sampled and tokenised; or a small one that is made up."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.core.errors import UsageError
from app.inference.encoder import load_tokenizer
from app.training.continual import Task
from app.training.heads.per_task import read_texts

SPLITS = ("train", "test")
Texts = list[tuple[str, str]]
TOPICS = {
    "sea": "boat sail wave harbour anchor tide fish coast",
    "farm": "cow field barn harvest wheat plough fence hay",
    "space": "planet orbit rocket star comet moon probe crater",
}
MOODS = {"good": "lovely bright superb delightful", "bad": "awful dull dreadful tedious"}
KINDS = {
    "question": "who has seen the {} near the {} ?",
    "order": "take the {} to the {} at once !",
    "report": "yesterday the {} was beside the {} .",
}


class TasksUnusable(UsageError):
    """The folder holds no task set: it needs a folder per task with train.jsonl.gz and test.jsonl.gz."""


@dataclass(frozen=True)
class RawTask:
    """A task's texts with their labels by name, before any is chosen; rows without a known label were left out."""

    name: str
    labels: list[str]
    splits: dict[str, Texts]
    num_left_out: int


def read_folder(folder: Path) -> list[RawTask]:
    """The task of each folder below that has both splits, in the order of ``tasks.json`` or of their names.

    Raises:
        TasksUnusable: there is none, or a line is no row.
    """
    described = _described(folder)
    found = sorted(path.name for path in folder.glob("*") if all(_file(path, split) for split in SPLITS))
    if not found:
        raise TasksUnusable(f"{folder} has no task: it needs folders with train.jsonl.gz and test.jsonl.gz")
    names = [name for name in described if name in found] + [name for name in found if name not in described]
    return [_read_task(folder / name, described.get(name, {}).get("labels")) for name in names]


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "tasks.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise TasksUnusable(f"{path} is no JSON ({error}): mend it, or remove it") from error
    return found if isinstance(found, dict) else {}


def _file(folder: Path, split: str) -> Path | None:
    return next((path for path in (folder / f"{split}.jsonl.gz", folder / f"{split}.jsonl") if path.is_file()), None)


def _read_task(folder: Path, labels: Sequence[str] | None) -> RawTask:
    read = {split: list(_lines(folder, split)) for split in SPLITS}
    known = list(labels) if labels else sorted({label for _, label in read["train"]})
    splits = {split: [row for row in rows if row[1] in known] for split, rows in read.items()}
    if not all(splits.values()):
        raise TasksUnusable(f"{folder} has a split without a row of a known label: {', '.join(known[:5])}")
    return RawTask(folder.name, known, splits, sum(map(len, read.values())) - sum(map(len, splits.values())))


def _lines(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    path = _file(folder, split)
    assert path is not None
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield str(row["text"]), str(row["label"])
            except (ValueError, KeyError, TypeError) as error:
                raise TasksUnusable(f"{path}, line {number} has no text and label ({error!r}): mend it") from error


def made_up(*, seed: int) -> list[RawTask]:
    """Four small tasks on one vocabulary: the topic of a text, its mood, its kind, and whether its words agree."""
    random = np.random.default_rng(seed)
    makers = {"topic": _topic, "mood": _mood, "kind": _kind, "agree": _agree}
    tasks = []
    for name, make in makers.items():
        splits = {split: [make(random) for _ in range(num)] for split, num in (("train", 160), ("test", 120))}
        tasks.append(RawTask(name, sorted({label for _, label in splits["train"]}), splits, 0))
    return tasks


def _word(random: np.random.Generator, words: Mapping[str, str], key: str) -> str:
    return str(random.choice(words[key].split()))


def _topic(random: np.random.Generator) -> tuple[str, str]:
    topic, mood = (str(random.choice(list(each))) for each in (TOPICS, MOODS))
    return f"the {_word(random, TOPICS, topic)} was {_word(random, MOODS, mood)}", topic


def _mood(random: np.random.Generator) -> tuple[str, str]:
    text, _ = _topic(random)
    mood = str(random.choice(list(MOODS)))
    return f"{text.rpartition(' ')[0]} {_word(random, MOODS, mood)}", mood


def _kind(random: np.random.Generator) -> tuple[str, str]:
    kind = str(random.choice(list(KINDS)))
    words = [_word(random, TOPICS, str(random.choice(list(TOPICS)))) for _ in range(2)]
    return KINDS[kind].format(*words), kind


def _agree(random: np.random.Generator) -> tuple[str, str]:
    first = str(random.choice(list(TOPICS)))
    second = first if random.random() < 0.5 else str(random.choice([each for each in TOPICS if each != first]))
    return f"{_word(random, TOPICS, first)} and {_word(random, TOPICS, second)}", "same" if first == second else "other"


def choose(raw: Sequence[RawTask], *, rows: int, test_rows: int, seed: int, max_tokens: int) -> list[Task]:
    """Sample and tokenise: at most so many rows of each task, drawn by seed and name; 0 takes all."""
    tokenizer, tasks = load_tokenizer(), []
    for task in raw:
        numbers = {label: number for number, label in enumerate(task.labels)}
        splits = {}
        for split, most in (("train", rows), ("test", test_rows)):
            drawn = _sample(task.splits[split], most, np.random.default_rng([seed, *task.name.encode()]))
            texts, labels = [text for text, _ in drawn], [numbers[label] for _, label in drawn]
            splits[split] = read_texts(texts, labels, task=task.name, tokenizer=tokenizer, max_tokens=max_tokens)
        tasks.append(Task(task.name, task.labels, splits["train"], splits["test"]))
    return tasks


def _sample(rows: Texts, most: int, random: np.random.Generator) -> Texts:
    if not most or most >= len(rows):
        return rows
    return [rows[at] for at in sorted(random.choice(len(rows), size=most, replace=False).tolist())]
