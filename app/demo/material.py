"""What the demo is played on: the sample handbook, or any folder of documents.

Guarantees: a material gives documents in two revisions, questions with known answers about each, and the traffic of
users before and after the change. A folder of the user's own is only read: its documents are copied, the last
fifth of them kept back for the second revision. Not guaranteed: that a folder's questions are good ones; they are
synthetic rows in wordings withheld from training.
"""

import gzip
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from app.core.digests import digest_json
from app.core.errors import UsageError
from app.core.overlap import NGRAM_WORDS
from app.core.parquet import read_rows
from app.core.text import ngrams, words
from app.demo.corpus import write_corpus
from app.demo.facts import Revision
from app.demo.questions import Question, suite_rows, traffic
from app.registry.versions import Registry, Version

KEPT_BACK = 5
"""Every so many documents of a folder, one waits for the second revision."""
MAX_FILES = 500
MAX_ROWS = 400
MAX_SUITE_ROWS = 300


class NothingToRead(UsageError):
    """The folder for the demo holds too few files: name a folder with at least two documents."""


class Material(Protocol):
    """Documents, questions and traffic of one demo."""

    title: str
    dataset: str
    suites_need_rows: bool

    def write(self, folder: Path, revision: Revision) -> None:
        """Make ``folder`` hold the documents of a revision and nothing else."""

    def suites(self, revision: Revision, *, registry: Registry, synthetic: Version | None) -> dict[str, list[Question]]:
        """Held-out questions: ``all`` of revision 1; ``old`` and ``new`` of revision 2."""

    def traffic(self, revision: Revision, *, num: int, seed: int) -> list[Question]:
        """What users ask while a revision is the news."""


class Handbook:
    """The sample corpus: the handbook of a fictional cooperative."""

    title = "the sample handbook"
    dataset = "handbook"
    suites_need_rows = False

    def write(self, folder: Path, revision: Revision) -> None:
        """See :class:`Material`."""
        shutil.rmtree(folder, ignore_errors=True)
        write_corpus(folder, revision=revision)

    def suites(self, revision: Revision, *, registry: Registry, synthetic: Version | None) -> dict[str, list[Question]]:
        """From the table of facts; ``registry`` and ``synthetic`` are not looked at."""
        if revision == 1:
            return {"all": suite_rows(1)}
        return {"old": suite_rows(2, subject="old"), "new": suite_rows(2, subject="new")}

    def traffic(self, revision: Revision, *, num: int, seed: int) -> list[Question]:
        """See :class:`Material`."""
        return traffic("before" if revision == 1 else "after", num=num, seed=seed)


class Folder:
    """Any folder of documents; at most ``MAX_FILES`` files, and ``MAX_ROWS`` rows of a JSON-lines file, are taken."""

    def __init__(self, source: Path) -> None:
        self.title, self.dataset = source.name, f"demo-{source.name}"
        self.suites_need_rows = True
        self._source = source
        self._files = sorted(path for path in source.rglob("*") if path.is_file())[:MAX_FILES]
        self._pools: dict[Revision, list[Question]] = {}
        if not self._files:
            raise NothingToRead(f"{source} holds no file: name a folder of documents with --source")

    def write(self, folder: Path, revision: Revision) -> None:
        """See :class:`Material`."""
        shutil.rmtree(folder, ignore_errors=True)
        for place, path in enumerate(self._files):
            target = folder / path.relative_to(self._source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.name.endswith((".jsonl", ".jsonl.gz")):
                _copy_lines(path, target, revision)
            elif revision == 2 or not _kept_back(place):
                shutil.copyfile(path, target)

    def suites(self, revision: Revision, *, registry: Registry, synthetic: Version | None) -> dict[str, list[Question]]:
        """From the synthetic rows whose wordings were withheld; ``new`` are those of documents that came later."""
        if synthetic is None:
            raise ValueError("a folder's suites are made from its synthetic rows: synthesise first")
        rows = _held_out(_rows(registry, synthetic))
        if revision == 1:
            self._pools[1] = _questions(rows)
            return {"all": self._pools[1]}
        known = {question["source"] for question in self._pools.get(1, ())}
        self._pools[2] = _questions(row for row in rows if row["source"] not in known)
        return {"old": _questions(row for row in rows if row["source"] in known), "new": self._pools[2]}

    def traffic(self, revision: Revision, *, num: int, seed: int) -> list[Question]:
        """Questions of the revision's pool, drawn with replacement; before synthesis of revision 2, the file names."""
        rng = random.Random(f"{revision}:{seed}")
        pool = self._pools.get(revision) or self._names_of_new_files()
        return rng.choices(pool, k=num)

    def _names_of_new_files(self) -> list[Question]:
        names = [path.stem.replace("_", " ").replace("-", " ") for i, path in enumerate(self._files) if _kept_back(i)]
        return [_question(f"What does the document {name} say?", [], "", "") for name in names or [self.title]]


def _kept_back(place: int) -> bool:
    return place % KEPT_BACK == KEPT_BACK - 1


def _copy_lines(path: Path, target: Path, revision: Revision) -> None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as source:
        lines = [line for _, line in zip(range(MAX_ROWS), source, strict=False)]
    kept = [line for place, line in enumerate(lines) if revision == 2 or not _kept_back(place)]
    target.with_suffix("" if path.suffix == ".gz" else path.suffix).write_bytes(b"".join(kept))


def _rows(registry: Registry, synthetic: Version) -> Sequence[Mapping[str, Any]]:
    return read_rows(registry.folder(synthetic) / "rows.parquet")


def _held_out(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows in withheld wordings, but those that repeat a long run of words of a training row; all when none is left.

    A gap text is one sentence in whatever words it is announced: such a question would be no held-out one.
    """
    taught = {run for row in rows if row["split"] == "train" for run in ngrams(words(row["question"]), NGRAM_WORDS)}
    held = [row for row in rows if row["split"] == "heldout"]
    return [row for row in held if not ngrams(words(row["question"]), NGRAM_WORDS) & taught] or held


def _questions(rows: Iterable[Mapping[str, Any]]) -> list[Question]:
    made = [_question(row["question"], row["answers"], row["subject"], row["source"]) for row in rows]
    return sorted(made, key=lambda question: question["question_id"])[:MAX_SUITE_ROWS]


def _question(text: str, answers: Sequence[str], subject: str, source: str) -> Question:
    identity = digest_json({"question": text, "answers": list(answers)})
    return Question(question_id=identity, question=text, answers=list(answers), subject=subject, source=source)
