"""Reads the request log's Parquet parts, only the columns and the time that the monitor needs.

Guarantees: requests come by position (time, then id), parts that are still being written are not seen. Not guaranteed:
that a request is seen which reaches the log later than ``settle_s`` after its time.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from app.core.parquet import parts_of
from app.monitoring.signals import NEEDED

COLUMNS = [*NEEDED, "request_json"]
ORDER = [("time", "ascending"), ("request_id", "ascending")]


def read_requests(
    folder: Path, *, release: str, since: datetime | None, until: datetime, limit: int
) -> list[dict[str, Any]]:
    """The first ``limit`` requests that a release answered between two moments, both included."""
    parts = [str(path) for path in parts_of(folder)]
    if not parts:
        return []
    wanted = (pc.field("release") == release) & (pc.field("time") <= until)
    wanted = wanted & (pc.field("time") >= since) if since else wanted
    table = ds.dataset(parts, format="parquet").to_table(columns=COLUMNS, filter=wanted)
    rows: list[dict[str, Any]] = table.sort_by(ORDER).slice(0, limit).to_pylist()
    return rows
