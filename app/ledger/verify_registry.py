"""Hold the registry's tables against the log: version rows, and what is in production, here and in MLflow.

Guarantees: a version row without a leaf, a leaf without its row, and a ``production`` alias that no promotion or
rollback leaf put there are each named; keys, decisions and moves are checked by ``app.ledger.verify_signatures``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from app.core.digests import digest_json
from app.core.schema import aliases, versions
from app.ledger.decisions import MAX_SKEW_S, read_time
from app.ledger.faults import Report
from app.ledger.keys import Verifier
from app.ledger.log import MOVES, PRODUCTION, REQUEST_BATCH, Leaf
from app.ledger.verify_lineage import TIME
from app.ledger.verify_mlflow import verify_mlflow
from app.ledger.verify_signatures import verify_statements
from app.ledger.verify_tree import Row

__all__ = ["read_refs", "verify_registry", "verify_statements"]

Manifests = Mapping[str, Any]


def read_refs(connection: Connection) -> dict[str, str]:
    """Human references, ``name@number``, by digest."""
    query = select(versions.c.digest, versions.c.name, versions.c.number)
    return {digest: f"{name}@{number}" for digest, name, number in connection.execute(query)}


def verify_registry(
    connection: Connection,
    rows: Sequence[Row],
    manifests: Manifests,
    verifier: Verifier | None,
    report: Report,
    *,
    root: Path | None,
) -> None:
    """Check rows, keys, decisions, moves and production against the leaves.

    Args:
        verifier: the log's key.
        root: the store's folder, where it has one.
    """
    log = [Leaf(row.index, row.statement) for row in rows if row.statement]
    _check_versions(connection, rows, manifests, report)
    verify_statements(log, manifests, verifier, report)
    _check_aliases(connection, log, report)
    verify_mlflow(connection, log, manifests, report, root=root)


def _check_versions(connection: Connection, rows: Sequence[Row], manifests: Manifests, report: Report) -> None:
    stored = connection.execute(select(versions).order_by(versions.c.kind, versions.c.name, versions.c.number)).all()
    digests = {row.digest for row in stored}
    order = {(row.kind, row.subject): row.index for row in rows if row.subject in digests}
    times = {row.index: row.statement.time for row in rows if row.statement and row.subject in digests}
    last: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, -1))
    for row in stored:
        where = f"{row.kind} {row.name}@{row.number}"
        index = order.get((row.kind, row.digest))
        if index is None:
            report.add("unlogged-version", where, "no leaf names this version: its row was put there or changed")
            continue
        number, previous = last[row.kind, row.name]
        if row.number != number + 1 or index < previous:
            report.add("renumbered-version", where, "versions are not numbered in the order of their leaves")
        last[row.kind, row.name] = (row.number, index)
        if not _close(row.created_at, times.get(index)):
            report.add("changed-version", where, f"its row says {row.created_at}, its leaf {times.get(index)}")
        _check_manifest(row.kind, row.name, row.inputs_digest, manifests.get(row.digest), where, report)
    _check_forgotten({(row.kind, row.digest) for row in stored}, rows, report)


def _close(stored: str, logged: str | None) -> bool:
    """Whether the time of a row is about that of its leaf; a leaf that cannot be read is named elsewhere."""
    if logged is None or not TIME.fullmatch(logged):
        return True
    try:
        return abs(read_time(stored) - read_time(logged)) <= timedelta(seconds=MAX_SKEW_S)
    except ValueError:
        return False


def _check_manifest(
    kind: str, name: str, inputs: str, manifest: Mapping[str, Any] | None, where: str, report: Report
) -> None:
    if manifest and (kind, name, inputs) != (
        manifest.get("kind"),
        manifest.get("name"),
        digest_json(manifest["inputs"]),
    ):
        report.add("changed-version", where, "its row names another kind, name or inputs than its manifest")


def _check_forgotten(stored: set[tuple[str, str]], rows: Sequence[Row], report: Report) -> None:
    for row in rows:
        statement = row.statement
        if statement is None or statement.payload != statement.subject or statement.kind == REQUEST_BATCH:
            continue
        if (statement.kind, statement.subject) not in stored:
            where = f"leaf {row.index}, {statement.kind} {statement.name}"
            report.add("missing-version", where, "the registry has lost the version that this leaf published")


def _check_aliases(connection: Connection, log: Sequence[Leaf], report: Report) -> None:
    """``production`` stands where the last promotion or rollback leaf put it, and nowhere else."""
    query = select(aliases.c.kind, aliases.c.name, versions.c.kind, versions.c.name, versions.c.digest)
    query = query.join_from(aliases, versions, aliases.c.version_id == versions.c.id, isouter=True)
    found = {f"{row[0]}/{row[1]}": row for row in connection.execute(query.where(aliases.c.alias == PRODUCTION))}
    for kind, name, alias in connection.execute(select(aliases.c.kind, aliases.c.name, aliases.c.alias)):
        if alias != PRODUCTION and alias.strip().casefold() == PRODUCTION:
            report.add(
                "unbacked-alias", f"alias {kind}/{name}@{alias}", "it looks like production, and no leaf made it"
            )
    moved = {leaf.statement.name: leaf for leaf in log if leaf.statement.kind in MOVES}
    for target in sorted(found.keys() | moved.keys()):
        row, leaf, where = found.get(target), moved.get(target), f"alias {target}@{PRODUCTION}"
        if leaf is None:
            report.add("unbacked-alias", where, "no promotion leaf and no approval stand behind it")
        elif row is None:
            report.add("missing-alias", where, f"it was deleted; leaf {leaf.index} put it in production")
        elif tuple(row[2:]) != (row[0], row[1], leaf.statement.subject):
            message = f"it points at {row[4]}, but leaf {leaf.index} put {leaf.statement.subject} in production"
            report.add("unbacked-alias", where, message)
