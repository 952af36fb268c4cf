"""Suites: held-out questions with their accepted answers, as versions.

Guarantees: a suite's rows are sorted by question id and name no question twice. Not guaranteed: that training never saw
them; a gate's check is for that.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.core.digests import digest_json
from app.core.errors import UsageError
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


class EmptySuite(UsageError):
    """A suite needs at least one question with an accepted answer: give it some."""


def publish_suite(name: str, rows: Iterable[Mapping[str, Any]], *, origin: str, registry: Registry) -> Version:
    """Publish questions as a suite; ``origin`` says where they come from.

    Raises:
        EmptySuite: no row has an answer.
    """
    by_id = {row["question_id"]: dict(row) for row in rows if row["answers"]}
    if not by_id:
        raise EmptySuite(f"suite {name} has no question with an answer: give at least one")
    ordered = [by_id[identity] for identity in sorted(by_id)]
    inputs = {"rows": digest_json(ordered), "origin": origin, "code": CODE_VERSION}
    if found := registry.find("suite", name, inputs):
        return found
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / ROWS_FILE, ordered, schema=SUITE)
        facts = {"num_rows": len(ordered), "origin": origin}
        return registry.publish("suite", name, folder=Path(folder), inputs=inputs, facts=facts)
