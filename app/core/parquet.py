"""Rows to Parquet and back, the same bytes for the same rows.

Guarantees: one row group layout and one codec, no timestamps and no writer's names beyond pyarrow's own, so equal rows
give equal bytes under one pyarrow version. Not guaranteed: equal bytes across pyarrow versions.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_SIZE = 16_384


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, schema: pa.Schema) -> int:
    """Write rows under a schema, in their order; the number of rows comes back.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP_SIZE)
    return int(table.num_rows)


def parts_of(folder: Path) -> list[Path]:
    """The Parquet files of a folder that writers add to, by name; hidden ones are still being written."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Every row of a Parquet file, in order."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
