"""The request log: every request with its response and its receipt, in parts whose receipts the ledger commits to.

``submit`` seals a record (see ``app.ledger.receipts``), notes it in a journal and hands it to a bounded list. One
thread writes the parts, a second one appends their Merkle roots to the ledger, so that a database that is busy holds up
neither answers nor parts.

Guarantees: ``submit`` hashes, writes to the system's cache, and waits for nothing; a part is whole or not there; a
record that finds the list full gets no receipt and is counted. What a killed process noted (``app.ledger.journal``),
and a part that a crash kept from the ledger, is entered by the next writer. Not guaranteed: the records of the last
``log_flush_s`` when the machine itself fails, or while the journal cannot be written, which the replica's log says;
their receipts are in the clients' hands alone then.
"""

import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.core.parquet import parts_of
from app.ledger.batches import (
    SCHEMA,
    Record,
    Sealed,
    batch_statement,
    find_receipt,
    receipts_path,
    root_of,
    seal,
    write_part,
)
from app.ledger.journal import NAME_TIME, Journal, new_part, recover
from app.ledger.log import REQUEST_BATCH, Ledger
from app.ledger.receipts import proof_of

logger = logging.getLogger(__name__)

ORPHAN_AGE_S = 60.0


class RequestLog:
    """The writer of one process; ``close`` writes what is left."""

    def __init__(self, folder: Path, *, ledger: Ledger, flush_s: float, max_queue: int, ledger_period_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.flush_s, self.ledger, self._max_queue = folder, flush_s, ledger, max_queue
        self._waiting: list[Sealed] = []
        self._rows: list[Sealed] = []
        self._journal: Journal | None = None
        self._journals: list[Journal] = []
        self._changed, self._closing = threading.Condition(), False
        self.num_logged, self.num_dropped, self._num_taken = 0, 0, 0
        self._entries = LedgerEntries(folder, ledger=ledger, period_s=ledger_period_s)
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def submit(self, record: Record) -> Sealed | None:
        """Take a record and give its receipt; one that finds the list full is dropped, counted and has none."""
        sealed = seal(record)
        with self._changed:
            if len(self._waiting) >= self._max_queue:
                self.num_dropped += 1
                return None
            self._waiting.append(sealed)
            self._note(sealed)
            self._num_taken += 1
            self._changed.notify()
        return sealed

    @property
    def num_told(self) -> int:
        """Records that were submitted, dropped ones too."""
        return self._num_taken + self.num_dropped

    @property
    def num_settled(self) -> int:
        """Records that were written or dropped."""
        return self.num_logged + self.num_dropped

    def proof(self, request_id: str) -> dict[str, Any] | None:
        """The proof that a request's receipt stands in the ledger; None while there is none. Reads the database."""
        return receipt_proof(self.folder, self.ledger, request_id)

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is left, enter it into the ledger and end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        self._entries.close(timeout_s)

    def _note(self, sealed: Sealed) -> None:
        """Write a record to the journal of the part that comes next."""
        try:
            self._journal = self._journal or Journal(self.folder)
            self._journal.add(sealed)
        except OSError as error:
            logger.warning("the request log's journal cannot be written, a crash would lose a request: %s", error)

    def _run(self) -> None:
        running = True
        while running:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._rows or self._closing)
                self._changed.wait_for(lambda: self._closing, timeout=self.flush_s)
                running = not self._closing
            self._flush()

    def _flush(self) -> None:
        """Write what came as a part; without one the records and their journals wait for the next time."""
        with self._changed:
            self._rows += self._waiting
            self._journals += [self._journal] if self._journal else []
            self._waiting, self._journal = [], None
        if not self._rows:
            return
        path = new_part(self.folder)
        try:
            for journal in self._journals:
                journal.becomes(path)
            write_part(path, self._rows)
        except OSError as error:
            logger.warning("the request log cannot be written, its records wait in memory: %s", error)
            self._forget_surplus()
            return
        for journal in self._journals:
            journal.remove()
        self.num_logged += len(self._rows)
        self._rows, self._journals = [], []
        self._entries.add(path)

    def _forget_surplus(self) -> None:
        surplus = max(0, len(self._rows) - self._max_queue)
        self.num_dropped += surplus
        self._num_taken -= surplus
        self._rows = self._rows[surplus:]


class LedgerEntries:
    """Appends the parts of one writer to the ledger, at most once a period, in a thread of its own."""

    def __init__(self, folder: Path, *, ledger: Ledger, period_s: float) -> None:
        self.ledger = ledger
        self._folder, self._period_s = folder, period_s
        self._pending: list[Path] = []
        self._adopted_s = -ORPHAN_AGE_S
        self._lock, self._wake, self._closing = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log-ledger", daemon=True)
        self._thread.start()

    def add(self, part: Path) -> None:
        """A part was written: enter it when the period is over."""
        with self._lock:
            self._pending.append(part)
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Enter what is left and end the thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait(ORPHAN_AGE_S)
            self._wake.clear()
            closing = self._closing.is_set()
            done = self._enter()
            if closing:
                return
            self._closing.wait(self._period_s if done else max(self._period_s, 1.0))
            if not done:
                self._wake.set()

    def _enter(self) -> bool:
        """Append the parts written since the last time; False when the database was busy."""
        from sqlalchemy.exc import OperationalError

        with self._lock:
            pending = list(self._pending)
        try:
            parts = [*self._orphans(pending), *pending]
            if parts:
                self.ledger.append([batch_statement(path) for path in parts])
        except OperationalError as error:
            logger.warning("the ledger is busy, the request log's parts are entered later: %s", error)
            return False
        with self._lock:
            self._pending = [path for path in self._pending if path not in parts]
        return True

    def _orphans(self, pending: list[Path]) -> list[Path]:
        """What dead writers left: records in journals, parts that they did not enter; looked for once in a while."""
        if time.monotonic() - self._adopted_s < ORPHAN_AGE_S:
            return []
        self._adopted_s, recovered = time.monotonic(), self._recovered()
        old = [path for path in parts_of(self._folder) if time.time() - path.stat().st_mtime > ORPHAN_AGE_S]
        known = {leaf.statement.name for leaf in self.ledger.leaves(REQUEST_BATCH)} if old else set()
        fresh = [path for path in old if path.name not in known and path not in pending]
        return [*recovered, *(path for path in fresh if receipts_path(path).exists())]

    def _recovered(self) -> list[Path]:
        try:
            return recover(self._folder)
        except OSError as error:
            logger.warning("what a dead writer's journal holds cannot be written, it is tried again: %s", error)
            return []


def receipt_proof(folder: Path, ledger: Ledger, request_id: str) -> dict[str, Any] | None:
    """The proof that a request's receipt stands in the ledger; None while its part is not written or not entered."""
    found = find_receipt(folder, request_id)
    if found is None:
        return None
    part, receipts, leaf = found
    batches = ledger.leaves(REQUEST_BATCH, subject=root_of(receipts))
    entered = [each for each in batches if each.statement.name == part.name]
    if not entered:
        return None
    checkpoint, index, batch = ledger.checkpoint(), entered[0].index, entered[0].statement
    proof = ledger.inclusion_proof(index, int(checkpoint.split("\n")[1]))
    return proof_of(leaf, leaves=receipts, batch=batch, index=index, proof=proof, checkpoint=checkpoint)


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
