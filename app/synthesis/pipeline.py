"""Dataset version to synthetic version: read facts in every chunk, resolve them, word them; on Ray Data.

Guarantees: idempotent by dataset digest, settings and code version; the published bytes do not depend on how Ray cut
the work. Not guaranteed: that a chunk's facts are true; they are what its document says.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import ray.data

from app.core.errors import UsageError
from app.core.parquet import read_rows, write_rows
from app.registry.tables import REJECTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version
from app.registry.whole import chunks_of
from app.synthesis.extract import extract_facts
from app.synthesis.resolve import Resolution, resolve
from app.synthesis.rows import ExtractedFact, rows_from_facts, unanswerable_rows
from app.synthesis.schema import FACTS, REJECTS, ROWS
from app.synthesis.settings import SynthesisSettings

CODE_VERSION = "synthesis-1"
KIND = "synthetic"


class NothingToAsk(UsageError):
    """The dataset gave no question: ingest documents that hold text, or allow synthesis.fallback."""


def synthesize(dataset: Version, *, name: str, registry: Registry, settings: SynthesisSettings) -> Version:
    """Publish question and answer rows made from a dataset version's chunks.

    Raises:
        NothingToAsk: no chunk gave a question.
    """
    inputs = {"dataset": dataset.digest, "settings": settings.model_dump(mode="json"), "code": CODE_VERSION}
    if found := registry.find(KIND, name, inputs):
        return found
    chunks = read_rows(chunks_of(dataset, registry))
    resolution = resolve(
        _candidates(chunks, settings), chunk_ids=[chunk["chunk_id"] for chunk in chunks], settings=settings
    )
    rows = _rows(resolution.facts, settings)
    if not rows:
        raise NothingToAsk(
            f"dataset {dataset.ref} gave no question from {len(chunks)} chunks: ingest documents that hold text"
        )
    with TemporaryDirectory(prefix="synthesis-") as folder:
        _write(Path(folder), rows, resolution)
        facts = _figures(rows, resolution)
        return registry.publish(KIND, name, folder=Path(folder), inputs=inputs, parents=[dataset.digest], facts=facts)


def extract_batch(batch: pa.Table, *, settings: SynthesisSettings) -> pa.Table:
    """A batch of chunks to its candidate facts."""
    facts = [asdict(fact) for chunk in batch.to_pylist() for fact in extract_facts(chunk, settings)]
    return pa.Table.from_pylist(facts, schema=FACTS)


def word_batch(batch: pa.Table, *, settings: SynthesisSettings) -> pa.Table:
    """A batch of facts to its rows."""
    return pa.Table.from_pylist(rows_from_facts(_facts(batch), settings), schema=ROWS)


def _candidates(chunks: list[dict[str, Any]], settings: SynthesisSettings) -> list[ExtractedFact]:
    if not chunks:
        return []
    columns = ("chunk_id", "document_id", "source", "title", "heading_path", "text")
    table = pa.Table.from_pylist([{column: chunk[column] for column in columns} for chunk in chunks])
    return _facts(_mapped(table, partial(extract_batch, settings=settings), schema=FACTS, settings=settings))


def _rows(facts: list[ExtractedFact], settings: SynthesisSettings) -> list[dict[str, Any]]:
    if not facts:
        return []
    table = pa.Table.from_pylist([asdict(fact) for fact in facts], schema=FACTS)
    rows = _mapped(table, partial(word_batch, settings=settings), schema=ROWS, settings=settings).to_pylist()
    rows += unanswerable_rows(facts, settings)
    return sorted({row["row_id"]: row for row in rows}.values(), key=lambda row: row["row_id"])


def _mapped(
    table: pa.Table, function: Callable[[pa.Table], pa.Table], *, schema: pa.Schema, settings: SynthesisSettings
) -> pa.Table:
    num_blocks = min(2, max(1, table.num_rows // settings.batch_size))
    mapped = (
        ray.data.from_arrow(table)
        .repartition(num_blocks)
        .map_batches(
            function,
            batch_format="pyarrow",
            batch_size=settings.batch_size,
            num_cpus=1,
            memory=settings.worker_memory_bytes,
        )
    )
    batches = mapped.iter_batches(batch_format="pyarrow", batch_size=None)
    return pa.concat_tables([schema.empty_table(), *(batch.select(schema.names).cast(schema) for batch in batches)])


def _facts(table: pa.Table) -> list[ExtractedFact]:
    return [ExtractedFact(**row) for row in table.to_pylist()]


def _write(folder: Path, rows: Iterable[dict[str, Any]], resolution: Resolution) -> None:
    write_rows(folder / ROWS_FILE, rows, schema=ROWS)
    write_rows(folder / REJECTS_FILE, map(asdict, resolution.rejects), schema=REJECTS)


def _figures(rows: list[dict[str, Any]], resolution: Resolution) -> dict[str, Any]:
    return {
        "num_rows": len(rows),
        "num_facts": len(resolution.facts),
        "num_conflicts": resolution.num_conflicts,
        "num_rejected": len(resolution.rejects),
        "by_method": dict(sorted(Counter(fact.method for fact in resolution.facts).items())),
        "by_split": dict(sorted(Counter(row["split"] for row in rows).items())),
    }
