"""Rows to Parquet and back, the same bytes for the same rows.

Guarantees: one row group layout and one codec, no timestamps and no writer's names beyond pyarrow's own, so equal rows
give equal bytes under one pyarrow version. Not guaranteed: equal bytes across pyarrow versions.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_SIZE = 16_384


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, schema: pa.Schema) -> int:
    """Write rows under a schema, in their order; the number of rows comes back.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    with RowWriter(path, schema=schema) as writer:
        for row in rows:
            writer.add(row)
    return writer.num_rows


class RowWriter:
    """Writes rows as they come, and holds one row group of them at most; a context manager."""

    def __init__(self, path: Path, *, schema: pa.Schema) -> None:
        self.num_rows = 0
        self._schema, self._held = schema, list[dict[str, Any]]()
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row; columns that the schema does not have are left out."""
        self._held.append({name: row[name] for name in self._schema.names})
        self.num_rows += 1
        if len(self._held) == ROW_GROUP_SIZE:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held or not self.num_rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema), row_group_size=ROW_GROUP_SIZE)
        self._held = []


def parts_of(folder: Path) -> list[Path]:
    """The Parquet files of a folder that writers add to, by name; hidden ones are still being written."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Every row of a Parquet file, in order."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
