"""Suites: held-out questions with their accepted answers, or with what answers them, as versions.

A suite is committed before the training that it will judge: publishing it enters its digest in the ledger, and the gate
looks which leaf came first. Guarantees: a suite's rows are sorted by question id and name no question twice. Not
guaranteed: that training never saw them; a gate's check is for that.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.core.digests import digest_json
from app.core.errors import UsageError
from app.core.files import FileUnusable, read_text
from app.core.parquet import write_rows
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version

CODE_VERSION = "suite-1"
SUITE = pa.schema(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("subject", pa.string()),
        ("source", pa.string()),
    ]
)


GOLD = "chunk_id"
"""Column of a suite that judges an index: the chunk that answers; where it is empty, any chunk of the `source` does."""


class EmptySuite(UsageError):
    """A suite needs at least one question with an accepted answer: give it some."""


class BadQuestions(UsageError):
    """A file of questions holds one JSON object a line, with `question` and `answers`: mend the line that is named."""


def commit_questions(path: Path, *, name: str, registry: Registry) -> Version:
    """Publish a file of questions as a suite: JSON lines with `question`, `answers` and, if wanted, `subject`.

    A line may name the `source` (of a document) or the `chunk_id` that answers it, and needs no `answers` then: such a
    suite judges an index.

    Raises:
        BadQuestions: it cannot be read, or a line is no question.
        EmptySuite: no line has an answer.
    """
    try:
        lines = read_text(path).splitlines()
    except FileUnusable as error:
        raise BadQuestions(f"{error}: name a file of JSON lines") from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return publish_suite(name, rows, origin=path.name, registry=registry)


def publish_suite(name: str, rows: Iterable[Mapping[str, Any]], *, origin: str, registry: Registry) -> Version:
    """Publish questions as a suite; ``origin`` says where they come from.

    Raises:
        EmptySuite: no row has an answer.
    """
    by_id = {row["question_id"]: dict(row) for row in rows if row["answers"] or GOLD in row}
    if not by_id:
        raise EmptySuite(f"suite {name} has no question with an answer: give at least one")
    ordered = [by_id[identity] for identity in sorted(by_id)]
    inputs = {"rows": digest_json(ordered), "origin": origin, "code": CODE_VERSION}
    if found := registry.find("suite", name, inputs):
        return found
    with tempfile.TemporaryDirectory() as folder:
        schema = SUITE.append(pa.field(GOLD, pa.string())) if any(GOLD in row for row in ordered) else SUITE
        write_rows(Path(folder) / ROWS_FILE, [{GOLD: "", **row} for row in ordered], schema=schema)
        facts = {"num_rows": len(ordered), "origin": origin}
        return registry.publish("suite", name, folder=Path(folder), inputs=inputs, facts=facts)


def _row(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        given = json.loads(line)
        gold = {name: str(given[name]) for name in ("source", GOLD) if given.get(name)}
        answers = given.get("answers", []) if gold else given["answers"]
        if not isinstance(answers, list):
            raise TypeError
        row = {"question": str(given["question"]), "answers": [str(answer) for answer in answers]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = "needs `question` and a list `answers`, or the `source` or `chunk_id` that answers it"
        raise BadQuestions(f"{path}:{number} {said}: mend this line") from error
    identity, subject = digest_json({**row, **gold}), str(given.get("subject", ""))
    told = {GOLD: "", **gold} if gold else {}
    return {"question_id": identity, **row, "subject": subject, "source": path.name, **told}
