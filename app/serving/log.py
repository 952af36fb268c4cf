"""The request log: every request with its response, as Parquet parts, each named in the ledger.

A response hands its record to a bounded queue; one thread writes the parts and appends their digests to the ledger.

Guarantees: ``submit`` never waits; a part is whole or not there (written aside, then renamed); a record that finds the
queue full is counted. A part that a crash kept from the ledger is entered by the next writer. Not guaranteed:
the records of the last ``log_flush_s`` when the process is killed.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.core.clock import utc_now
from app.core.digests import digest_file
from app.core.parquet import parts_of
from app.ledger.log import REQUEST_BATCH, Ledger, Statement

logger = logging.getLogger(__name__)

NAME_TIME = "%Y%m%dT%H%M%S%f"
ORPHAN_AGE_S = 60.0
STOP = object()

_CITATION = pa.struct(
    [(name, pa.string()) for name in ("document_id", "chunk_id", "source", "title", "heading", "quote")]
)
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("release", pa.string()),
        ("route", pa.string()),
        ("model", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("citations", pa.list_(_CITATION)),
        ("confidence", pa.float64()),
        ("small_confidence", pa.float64()),
        ("large_confidence", pa.float64()),
        ("retrieval_score", pa.float64()),
        ("num_question_words", pa.int32()),
        ("embedding", pa.list_(pa.float32())),
        ("num_prompt_tokens", pa.int32()),
        ("num_completion_tokens", pa.int32()),
        ("cost_usd", pa.float64()),
        ("cost_large_only_usd", pa.float64()),
        ("latency_s", pa.float64()),
        ("status", pa.int16()),
        ("error", pa.string()),
        ("request_json", pa.string()),
        ("response_json", pa.string()),
    ]
)

Record = Mapping[str, Any]


class RequestLog:
    """The writer of one process; ``close`` writes what is left."""

    def __init__(self, folder: Path, *, ledger: Ledger, flush_s: float, max_queue: int, ledger_period_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._ledger, self._flush_s, self._ledger_period_s = folder, ledger, flush_s, ledger_period_s
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max_queue)
        self._rows: list[Record] = []
        self._pending: list[Path] = []
        self._num_parts, self._entered_s, self._adopted_s = 0, 0.0, -ORPHAN_AGE_S
        self.num_logged, self.num_dropped = 0, 0
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def submit(self, record: Record) -> None:
        """Take a record; one that finds the queue full is dropped and counted."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.num_dropped += 1

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is left, enter it into the ledger and end the thread."""
        if self._thread.is_alive():
            self._queue.put(STOP, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        running = True
        while running:
            running = self._collect()
            self._flush()
            self._enter(now=not running)

    def _collect(self) -> bool:
        """Take records for up to the flush time, from the first one on; False when the log is to end."""
        end_s = time.monotonic() + self._flush_s
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                record = self._queue.get(timeout=left_s)
            except queue.Empty:
                return True
            if record is STOP:
                return False
            self._rows.append(record)
        return True

    def _flush(self) -> None:
        if not self._rows:
            return
        self._num_parts += 1
        path = self._folder / f"{utc_now():{NAME_TIME}}-{os.getpid()}-{self._num_parts}.parquet"
        try:
            write_part(path, self._rows)
        except OSError as error:
            logger.warning("the request log cannot be written, its records wait in memory: %s", error)
            self._forget_surplus()
            return
        self.num_logged += len(self._rows)
        self._rows = []
        self._pending.append(path)

    def _forget_surplus(self) -> None:
        surplus = max(0, len(self._rows) - self._queue.maxsize)
        self.num_dropped += surplus
        self._rows = self._rows[surplus:]

    def _enter(self, *, now: bool) -> None:
        """Append the parts written since the last time to the ledger, at most once a period."""
        from sqlalchemy.exc import OperationalError

        if not now and time.monotonic() - self._entered_s < self._ledger_period_s:
            return
        self._entered_s = time.monotonic()
        try:
            parts = [*self._orphans(), *self._pending]
            if parts:
                self._ledger.append([_statement(path) for path in parts])
            self._pending = []
        except OperationalError as error:
            logger.warning("the ledger is busy, the request log's parts are entered later: %s", error)

    def _orphans(self) -> list[Path]:
        """Parts of writers that died before they entered them; looked for once in a while."""
        if time.monotonic() - self._adopted_s < ORPHAN_AGE_S:
            return []
        self._adopted_s = time.monotonic()
        old = [path for path in parts_of(self._folder) if time.time() - path.stat().st_mtime > ORPHAN_AGE_S]
        known = {leaf.statement.name for leaf in self._ledger.leaves(REQUEST_BATCH)} if old else set()
        return [path for path in old if path.name not in known and path not in self._pending]


def write_part(path: Path, rows: Iterable[Record]) -> None:
    """Write records as one part: whole or not at all."""
    columns = [{name: _plain(row.get(name)) for name in SCHEMA.names} for row in rows]
    staged = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(columns, schema=SCHEMA), staged, compression="zstd")
    staged.replace(path)


def read_log(folder: Path, *, since: datetime | None = None) -> pa.Table:
    """The request log, sorted by time; an empty table when there is none.

    Args:
        since: leaves out requests before this moment, and does not open parts written before it.
    """
    mark = f"{since.astimezone(UTC):{NAME_TIME}}" if since else ""
    tables = [pq.read_table(path, schema=SCHEMA) for path in parts_of(folder) if path.name >= mark]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    if since:
        table = table.filter(pc.field("time") >= since)
    return table.sort_by([("time", "ascending"), ("request_id", "ascending")])


def _plain(value: Any) -> Any:
    """A value as its column holds it: objects as JSON, half of a surrogate pair, which no UTF-8 has, as a mark."""
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _statement(path: Path) -> Statement:
    """A part in the ledger: its name, the digest of its bytes, and the releases that answered."""
    releases = set(pq.read_table(path, columns=["release"])["release"].drop_null().to_pylist())
    parents = tuple(sorted(releases))
    return Statement(kind=REQUEST_BATCH, subject=digest_file(path), name=path.name, parents=parents, actor="gateway")
