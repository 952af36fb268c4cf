"""Evaluate an index version on questions whose chunks or documents are known, beside another version if wanted.

Guarantees: an index is searched with the encoder that it was made with; every measure comes with the bootstrap's
interval, a comparison with the paired one; the outcome of every question is published; an evaluation that was made is
found again. Not guaranteed: that chunks which nobody marked do not answer as well; that the speed is the same tomorrow.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.core.digests import digest_json
from app.core.errors import UsageError
from app.core.parquet import read_rows, write_rows
from app.core.statistics import bootstrap_mean, paired_bootstrap
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version
from app.retrieval.filters import Scope
from app.retrieval.measure import DEPTH, MEASURES, measure
from app.retrieval.search import SearchIndex
from app.retrieval.searcher import Searcher

KIND, SUITE = "evaluation", "suite"
CODE_VERSION = "retrieval-evaluation-2"
DEEPER = 5
TEXTS = ("question_id", "question", "relevant")
ROWS = pa.schema({**dict.fromkeys(TEXTS, pa.string()), **dict.fromkeys(MEASURES, pa.float64())})


class NothingToAsk(UsageError):
    """None of the questions is about a chunk or document of the index: name questions that were made from it."""


@dataclass(frozen=True)
class Asked:
    """A question with what answers it: a chunk, or a document by its source where no chunk is known."""

    question: str
    relevant: str
    by_chunk: bool

    @property
    def question_id(self) -> str:
        """Pairs its outcomes over indexes: the same question, to be answered by the same."""
        return digest_json([self.question, self.relevant])


def evaluate_index(index: Version, questions: Version, *, registry: Registry, before: Version | None = None) -> Version:
    """Publish the measures of an index on synthetic rows or a suite; gates judge by those on a suite.

    Args:
        before: an index to compare with, question by question; its figures stand beside the changes.

    Raises:
        NothingToAsk: no question is about the index.
        ArtifactChanged, RetrieverMismatch: an index or its retriever is not what was published.
    """
    inputs: dict[str, Any] = {"index": index.digest, "questions": questions.digest, "code_version": CODE_VERSION}
    inputs |= {"suite": questions.digest} if questions.kind == SUITE else {}
    inputs |= {"before": before.digest} if before else {}
    name = f"retrieval-{index.name}-{questions.name}"
    if found := registry.find(KIND, name, inputs):
        return found
    searcher = Searcher.open(index, registry=registry)
    asked = asked_of(read_rows(registry.folder(questions) / ROWS_FILE), searcher.index)
    began_s = time.perf_counter()
    values = outcomes(searcher, asked)
    facts = _facts(index, questions, values) | {"seconds_per_question": (time.perf_counter() - began_s) / len(asked)}
    if before:
        others = outcomes(Searcher.open(before, registry=registry), asked)
        changes = {name: paired_bootstrap(others[name], values[name]).to_dict() for name in MEASURES}
        facts["against"] = {"index": before.ref, "changes": changes}
    columns = (dict(zip(MEASURES, row, strict=True)) for row in zip(*values.values(), strict=True))
    told = ({each: getattr(one, each) for each in TEXTS} for one in asked)
    rows = [text | row for text, row in zip(told, columns, strict=True)]
    parents = [index.digest, questions.digest, *([before.digest] if before else [])]
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / ROWS_FILE, rows, schema=ROWS)
        return registry.publish(KIND, name, folder=Path(folder), inputs=inputs, parents=parents, facts=facts)


def _facts(index: Version, questions: Version, values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    num = len(next(iter(values.values())))
    means = {name: bootstrap_mean(each).to_dict() for name, each in values.items()}
    return {"num_questions": num, "questions": questions.ref, "index": index.ref, **means}


def asked_of(rows: Sequence[Mapping[str, Any]], index: SearchIndex) -> list[Asked]:
    """Questions about an index, each once for everything that answers it.

    Raises:
        NothingToAsk: there is none.
    """
    found: dict[tuple[str, str], Asked] = {}
    for row in rows:
        chunk, source = row.get("chunk_id") or "", row.get("source") or ""
        if by_chunk := bool(index.places(chunk_id=chunk)):
            found[row["question"], chunk] = Asked(row["question"], chunk, by_chunk)
        elif index.places(source=source):
            found[row["question"], source] = Asked(row["question"], source, by_chunk)
    if not found:
        raise NothingToAsk("no question is about a chunk or document of the index: name questions made from it")
    return list(found.values())


def outcomes(searcher: Searcher, asked: Sequence[Asked]) -> dict[str, list[float]]:
    """Every measure of every question, in their order."""
    questions = [each.question for each in asked]
    hits = searcher.search(questions, DEPTH * DEEPER, scope=Scope(labels=None))
    names = [str(number) for number in range(len(asked))]
    ranked = [
        list(dict.fromkeys(hit.chunk_id if each.by_chunk else hit.source for hit in found))[:DEPTH]
        for each, found in zip(asked, hits, strict=True)
    ]
    relevant = {name: {each.relevant} for name, each in zip(names, asked, strict=True)}
    return measure(dict(zip(names, ranked, strict=True)), relevant)
