"""`signalbox verify`: recompute everything that the ledger commits to, and name every fault.

Purpose: one function for the CLI, the demo and tests. It needs the database, the store, the request log and the log's
public key; it opens no key that signs, and changes nothing but that it makes the tables where there are none.
Guarantees: it never stops at the first fault. What is looked at, and what is not, stands in the modules
``verify_tree``, ``verify_artifacts``, ``verify_requests``, ``verify_registry``, ``verify_answers`` and
``verify_lineage``.
"""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from app.core.database import Database, snapshot
from app.core.errors import UsageError
from app.core.schema import metadata
from app.core.store import Store
from app.core.workspace import Workspace
from app.ledger.access_book import verify_access
from app.ledger.auditor import Auditor, check_auditor
from app.ledger.faults import Fault, Report, collector_paused
from app.ledger.keys import Verifier
from app.ledger.log import SERVICE_KEY, Leaf
from app.ledger.verify_answers import verify_answers
from app.ledger.verify_artifacts import erasures_of, verify_artifacts
from app.ledger.verify_guarantees import verify_guarantees
from app.ledger.verify_lineage import verify_lineage
from app.ledger.verify_registry import read_refs, verify_registry
from app.ledger.verify_requests import verify_requests
from app.ledger.verify_tree import verify_tree
from app.ledger.witness import Witness, read_cosignatures

__all__ = ["Fault", "Report", "verify"]


class NoLedger(UsageError):
    """A workspace has no ledger yet: publish something first, or name another workspace with --workspace."""


def verify(
    workspace: Workspace,
    *,
    public_key: Path | None = None,
    checkpoint: Path | None = None,
    witnesses: Sequence[Witness] = (),
) -> Report:
    """Check the workspace's ledger, artifacts, request log, aliases and access grants.

    Args:
        public_key: the log's public key; by default the file beside the service's key. An auditor brings a copy.
        checkpoint: an older checkpoint that the auditor kept; the log must begin with its leaves.
        witnesses: each must have signed a checkpoint, whether the log trusts it or not.

    Raises:
        NoLedger: there is neither a database nor a key in the workspace.
    """
    report, auditor = Report(), Auditor(public_key, checkpoint, tuple(witnesses))
    beside = workspace.keys_dir / f"{SERVICE_KEY}.pub"
    _check_there(workspace, beside)
    verifier = auditor.verifier(beside, report)
    try:
        with collector_paused(), snapshot(Database(workspace.database_url).migrate()) as connection:
            _verify(connection, workspace, auditor, verifier, report)
    except DatabaseError as error:
        report.add("unreadable-database", "database", f"it cannot be read ({error.orig}): restore it from a backup")
    return report


def _check_there(workspace: Workspace, key: Path) -> None:
    database = Path(workspace.database_url.removeprefix("sqlite:///"))
    if workspace.database_url.startswith("sqlite:///") and not database.exists() and not key.exists():
        raise NoLedger(f"{workspace.root} has no ledger yet: publish something first, or name another --workspace")


def _verify(
    connection: Connection, workspace: Workspace, auditor: Auditor, verifier: Verifier | None, report: Report
) -> None:
    _check_database(connection, report)
    tree = verify_tree(connection, verifier, report)
    rows = tree.rows
    check_auditor(
        auditor,
        levels=tree.levels,
        verifier=verifier,
        rows=rows,
        notes=tree.notes,
        cosigned=read_cosignatures(connection),
        report=report,
    )
    store = Store(workspace.store_uri)
    manifests = verify_artifacts(rows, store, read_refs(connection), report)
    verify_requests(rows, workspace.requests_dir, report, erased=erasures_of(rows, store).receipts)
    known = None if any(fault.kind == "wrong-key" for fault in report.faults) else verifier  # said once is enough
    verify_registry(connection, rows, manifests, known, report, root=store.local_root)
    verify_lineage(rows, report)
    log = [Leaf(row.index, row.statement) for row in rows if row.statement]
    verify_answers(log, workspace.requests_dir, report)
    verify_access(workspace.access_path, log, manifests, report)
    verify_guarantees(log, manifests, known, store, report)


def _check_database(connection: Connection, report: Report) -> None:
    """SQLite's own check: tables and their indexes agree, so that no query sees less than another."""
    if connection.dialect.name != "sqlite":
        return
    for line in connection.exec_driver_sql("PRAGMA integrity_check").scalars():
        if line != "ok":
            report.add("damaged-database", "database", f"{line}: restore it from a backup")
    triggers = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    for name, table in connection.exec_driver_sql(triggers):
        if table in metadata.tables:  # MLflow has some on tables of its own
            message = f"Signalbox makes none: what is written to {table} could become something else by it"
            report.add("foreign-trigger", f"database, trigger {name}", message)
