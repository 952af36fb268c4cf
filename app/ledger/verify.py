"""`signalbox verify`: recompute everything that the ledger commits to, and name every fault.

Purpose: one function for the CLI, the demo and tests. It needs the database, the store, the request log and the log's
public key; it opens no key that signs, and changes nothing but that it makes the tables where there are none.
Guarantees: it never stops at the first fault. What is looked at, and what is not, stands in the modules
``verify_tree``, ``verify_artifacts``, ``verify_requests``, ``verify_registry`` and ``verify_lineage``.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from app.core.database import Database
from app.core.store import Store
from app.core.workspace import Workspace
from app.ledger.faults import Fault, Report
from app.ledger.keys import KeyUnreadable, Verifier, load_public
from app.ledger.log import SERVICE_KEY
from app.ledger.verify_artifacts import erasures_of, verify_artifacts
from app.ledger.verify_lineage import verify_lineage
from app.ledger.verify_registry import read_refs, verify_registry
from app.ledger.verify_requests import verify_requests
from app.ledger.verify_tree import verify_tree

__all__ = ["Fault", "Report", "verify"]


def verify(workspace: Workspace, *, public_key: Path | None = None) -> Report:
    """Check the workspace's ledger, artifacts, request log and aliases.

    Args:
        public_key: the log's public key; by default the file beside the service's key. An auditor brings a copy.
    """
    report = Report()
    verifier = _read_key(public_key or workspace.keys_dir / f"{SERVICE_KEY}.pub", report)
    try:
        with collector_paused(), snapshot(Database(workspace.database_url).migrate()) as connection:
            _verify(connection, workspace, verifier, report)
    except DatabaseError as error:
        report.add("unreadable-database", "database", f"it cannot be read ({error.orig}): restore it from a backup")
    return report


def _verify(connection: Connection, workspace: Workspace, verifier: Verifier | None, report: Report) -> None:
    _check_database(connection, report)
    rows = verify_tree(connection, verifier, report)
    store = Store(workspace.store_uri)
    manifests = verify_artifacts(rows, store, read_refs(connection), report)
    verify_requests(rows, workspace.requests_dir, report, erased=erasures_of(rows, store).receipts)
    verify_registry(connection, rows, manifests, report)
    verify_lineage(rows, manifests, report)


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles while a million leaves are read: there are none, and looking doubles the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """A connection whose queries all see the same state, while others go on writing."""
    sqlite = database.engine.dialect.name == "sqlite"
    options = {} if sqlite else {"isolation_level": "REPEATABLE READ"}
    with database.engine.connect().execution_options(**options) as connection, connection.begin():
        if sqlite:
            connection.exec_driver_sql("BEGIN")
        yield connection


def _read_key(path: Path, report: Report) -> Verifier | None:
    try:
        return load_public(path)
    except KeyUnreadable as error:
        report.add("missing-key", f"key {path.name}", f"no checkpoint can be checked: {error}")
        return None


def _check_database(connection: Connection, report: Report) -> None:
    """SQLite's own check: tables and their indexes agree, so that no query sees less than another."""
    if connection.dialect.name != "sqlite":
        return
    for line in connection.exec_driver_sql("PRAGMA integrity_check").scalars():
        if line != "ok":
            report.add("damaged-database", "database", f"{line}: restore it from a backup")
