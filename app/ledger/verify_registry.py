"""Hold the registry's tables against the log: version rows, keys, approvals, and what is in production.

Guarantees: a version row without a leaf or a leaf without its row, a ``production`` alias that no promotion or rollback
leaf put there, a promotion without verdict or valid approval, and a key that plays two parts are each named.
Not guaranteed: that a verdict was right; ``app.governance.gate.replay`` judges it again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from app.core.digests import digest_json
from app.core.schema import aliases, versions
from app.ledger.faults import Report
from app.ledger.keys import KeyUnreadable, Verifier, facts_signer
from app.ledger.log import KEY, MOVES, PRODUCTION, PROMOTION, REQUEST_BATCH, ROLLBACK, Leaf, Statement
from app.ledger.verify_tree import Row

Manifests = Mapping[str, Any]


def read_refs(connection: Connection) -> dict[str, str]:
    """Human references, ``name@number``, by digest."""
    query = select(versions.c.digest, versions.c.name, versions.c.number)
    return {digest: f"{name}@{number}" for digest, name, number in connection.execute(query)}


def verify_registry(connection: Connection, rows: Sequence[Row], manifests: Manifests, report: Report) -> None:
    """Check rows, keys, approvals and production against the leaves."""
    log = [Leaf(row.index, row.statement) for row in rows if row.statement]
    _check_versions(connection, rows, manifests, report)
    verify_statements(log, manifests, report)
    _check_aliases(connection, log, report)


def verify_statements(log: Sequence[Leaf], manifests: Manifests, report: Report) -> None:
    """Check keys, approvals and moves among leaves, by the same rules for a ledger and for a pack."""
    keys = _check_keys(log, report)
    _check_moves(log, _check_approvals(log, manifests, keys, report), report)


def _check_versions(connection: Connection, rows: Sequence[Row], manifests: Manifests, report: Report) -> None:
    order = {(row.kind, row.subject): row.index for row in rows}
    stored = connection.execute(select(versions).order_by(versions.c.kind, versions.c.name, versions.c.number)).all()
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
        _check_manifest(row.kind, row.name, row.inputs_digest, manifests.get(row.digest), where, report)
    _check_forgotten({(row.kind, row.digest) for row in stored}, rows, report)


def _check_manifest(
    kind: str, name: str, inputs: str, manifest: Mapping[str, Any] | None, where: str, report: Report
) -> None:
    if manifest and (kind, name, inputs) != (manifest["kind"], manifest["name"], digest_json(manifest["inputs"])):
        report.add("changed-version", where, "its row names another kind, name or inputs than its manifest")


def _check_forgotten(stored: set[tuple[str, str]], rows: Sequence[Row], report: Report) -> None:
    for row in rows:
        statement = row.statement
        if statement is None or statement.payload != statement.subject or statement.kind == REQUEST_BATCH:
            continue
        if (statement.kind, statement.subject) not in stored:
            where = f"leaf {row.index}, {statement.kind} {statement.name}"
            report.add("missing-version", where, "the registry has lost the version that this leaf published")


def _check_keys(log: Sequence[Leaf], report: Report) -> dict[str, set[str]]:
    """Roles on record by the digest of the raw public key."""
    roles: dict[str, set[str]] = defaultdict(set)
    for leaf in log:
        if leaf.statement.kind != KEY:
            continue
        try:
            verifier = Verifier.parse(leaf.statement.name)
        except KeyUnreadable as error:
            report.add("bad-key", f"leaf {leaf.index}", str(error))
            continue
        roles[verifier.digest].add(verifier.role)
        if len(roles[verifier.digest]) > 1:
            report.add(
                "key-of-two-roles", f"leaf {leaf.index}, key {verifier.key_name}", "this key has another role too"
            )
    return roles


def _check_approvals(
    log: Sequence[Leaf], manifests: Manifests, keys: Mapping[str, set[str]], report: Report
) -> dict[str, Mapping[str, Any]]:
    """What each valid approval signs, by the approval's digest."""
    valid: dict[str, Mapping[str, Any]] = {}
    for leaf in log:
        signed = manifests.get(leaf.statement.subject, {}).get("facts", {}).get("signed")
        if leaf.statement.kind != "approval" or leaf.statement.subject not in manifests:
            continue
        where = f"leaf {leaf.index}, approval {leaf.statement.name}"
        signer = facts_signer(signed or {})
        if signer is None:
            report.add("bad-approval", where, "its signature does not hold")
        elif "trainer" in keys.get(signer.digest, ()) or not keys.get(signer.digest):
            report.add("bad-approval", where, f"its key {signer.key_name} is the trainer's, or not on record")
        else:
            valid[leaf.statement.subject] = signed["body"]
    return valid


def _check_moves(log: Sequence[Leaf], approvals: Mapping[str, Mapping[str, Any]], report: Report) -> None:
    """Every promotion has a verdict and a valid approval behind it; every rollback an earlier promotion."""
    kinds: dict[str, str] = {}
    promoted: set[tuple[str, str]] = set()
    for leaf in log:
        statement = leaf.statement
        target = (statement.name, statement.subject)
        if statement.kind == PROMOTION:
            _check_promotion(leaf, kinds, approvals, report)
            promoted.add(target)
        elif statement.kind == ROLLBACK and target not in promoted:
            report.add("bad-rollback", f"leaf {leaf.index}", f"{statement.name} was never promoted to what it names")
        elif statement.payload == statement.subject:
            kinds[statement.subject] = statement.kind


def _check_promotion(
    leaf: Leaf, kinds: Mapping[str, str], approvals: Mapping[str, Mapping[str, Any]], report: Report
) -> None:
    statement, where = leaf.statement, f"leaf {leaf.index}, promotion of {leaf.statement.name}"
    verdicts = {parent for parent in statement.parents if kinds.get(parent) == "verdict"}
    if statement.subject not in kinds:
        report.add("bad-promotion", where, "no leaf before it publishes what it promotes")
    if not verdicts:
        report.add("bad-promotion", where, "it names no verdict that stands before it")
    if not any(_approves(approvals.get(parent), statement, verdicts) for parent in statement.parents):
        report.add("bad-promotion", where, "it names no valid approval of what it promotes")


def _approves(body: Mapping[str, Any] | None, statement: Statement, verdicts: set[str]) -> bool:
    return body is not None and body.get("artifact") == statement.subject and body.get("verdict") in verdicts


def _check_aliases(connection: Connection, log: Sequence[Leaf], report: Report) -> None:
    """``production`` stands where the last promotion or rollback leaf put it, and nowhere else."""
    query = select(aliases.c.kind, aliases.c.name, versions.c.kind, versions.c.name, versions.c.digest)
    query = query.join_from(aliases, versions, aliases.c.version_id == versions.c.id, isouter=True)
    found = {f"{row[0]}/{row[1]}": row for row in connection.execute(query.where(aliases.c.alias == PRODUCTION))}
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
