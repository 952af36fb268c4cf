"""Recompute the log: leaves, tree nodes, signed checkpoints.

Guarantees: every leaf whose bytes, hash or columns changed is named; every inner node is compared with its children, so
that a change is named where it was made; every checkpoint's signature and root is checked, which proves all of them
consistent with one another. Not guaranteed: to see a log cut back together with its checkpoints; only a copy of a later
checkpoint outside of the database shows that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from app.core.schema import checkpoints, leaves, nodes
from app.ledger import merkle
from app.ledger.faults import Report
from app.ledger.keys import Verifier
from app.ledger.log import NotAStatement, Statement, origin_of
from app.ledger.note import BadNote, Checkpoint, read_checkpoint


@dataclass(frozen=True)
class Row:
    """A stored leaf: what its columns say, and its statement when it can be read."""

    index: int
    kind: str
    subject: str
    statement: Statement | None


def verify_tree(connection: Connection, verifier: Verifier | None, report: Report) -> list[Row]:
    """Check the three tables of the log against one another; the leaves come back for further checks."""
    hashes: dict[merkle.Position, bytes] = {}
    rows = _check_leaves(connection, hashes, report)
    size = rows[-1].index + 1 if rows else 0
    _check_nodes(connection, hashes, size, report)
    _check_checkpoints(connection, hashes, size, verifier, report)
    report.num_leaves = len(rows)
    return rows


def _check_leaves(connection: Connection, hashes: dict[merkle.Position, bytes], report: Report) -> list[Row]:
    rows: list[Row] = []
    query = select(leaves.c.leaf_index, leaves.c.kind, leaves.c.subject, leaves.c.leaf, leaves.c.leaf_hash)
    for index, kind, subject, data, stored in connection.execute(query.order_by(leaves.c.leaf_index)):
        expected = rows[-1].index + 1 if rows else 0
        if index != expected:
            report.add(
                "missing-leaf", span_name(expected, index), "deleted from the database: restore it from a backup"
            )
        hashes[0, index] = bytes(stored)
        statement = _check_leaf(index, kind, subject, bytes(data), bytes(stored), report)
        rows.append(Row(index, kind, subject, statement))
    return rows


def _check_leaf(index: int, kind: str, subject: str, data: bytes, stored: bytes, report: Report) -> Statement | None:
    where = f"leaf {index}"
    try:
        statement = Statement.from_bytes(data)
    except NotAStatement:
        statement = None
    if merkle.leaf_hash(data) != stored:
        report.add("changed-leaf", where, f"the bytes of this {kind} leaf and its hash differ: one was changed")
        return None
    if statement is None:
        report.add("changed-leaf", where, "it is no statement in canonical form: the log did not append it")
    if statement and (statement.kind, statement.subject) != (kind, subject):
        report.add(
            "changed-leaf", where, f"its columns say {kind} {subject}, its bytes say otherwise: a row was changed"
        )
    return statement


def _check_nodes(connection: Connection, hashes: dict[merkle.Position, bytes], size: int, report: Report) -> None:
    query = select(nodes.c.level, nodes.c.node_index, nodes.c.hash).order_by(nodes.c.level, nodes.c.node_index)
    stored = {(level, index): bytes(value) for level, index, value in connection.execute(query)}
    hashes.update(stored)
    expected = {(level, index) for level in range(1, size.bit_length()) for index in range(size >> level)}
    for position in sorted(expected | stored.keys()):
        fault = _node_fault(position, hashes, known=position in expected)
        if fault:
            report.add(*fault)


def _node_fault(
    position: merkle.Position, hashes: Mapping[merkle.Position, bytes], *, known: bool
) -> tuple[str, str, str] | None:
    level, index = position
    where = f"tree node {level}/{index} over {span_name(index << level, (index + 1) << level)}"
    if not known:
        return "stray-node", where, "no tree of this size has it: it was inserted, or leaves were deleted"
    if position not in hashes:
        return "missing-node", where, "deleted from the database: restore it from a backup"
    left, right = hashes.get((level - 1, 2 * index)), hashes.get((level - 1, 2 * index + 1))
    if left is None or right is None or merkle.node_hash(left, right) == hashes[position]:
        return None
    return "changed-node", where, "it is not the hash of its two children: it or one of them was changed or moved"


def _check_checkpoints(
    connection: Connection,
    hashes: Mapping[merkle.Position, bytes],
    size: int,
    verifier: Verifier | None,
    report: Report,
) -> None:
    notes = connection.execute(select(checkpoints.c.size, checkpoints.c.note).order_by(checkpoints.c.size)).all()
    report.num_checkpoints = len(notes)
    if verifier:
        signed = [_check_note(stated, note, verifier, report) for stated, note in notes]
        _check_roots([checkpoint for checkpoint in signed if checkpoint], hashes, size, report)
    last = notes[-1][0] if notes else 0
    if last < size:
        report.add("unsigned-leaf", span_name(last, size), "no checkpoint has signed them: the log did not append them")
    if last > size:
        report.add(
            "missing-leaf", span_name(size, last), "a checkpoint has signed them: the log was cut; restore a backup"
        )


def _check_note(stated: int, note: str, verifier: Verifier, report: Report) -> Checkpoint | None:
    where = f"checkpoint of {stated} leaves"
    try:
        checkpoint = read_checkpoint(note, [verifier])
    except BadNote as error:
        report.add("changed-checkpoint", where, str(error))
        return None
    if (checkpoint.size, checkpoint.origin) != (stated, origin_of(verifier)):
        report.add("changed-checkpoint", where, f"its note was signed for {checkpoint.size} leaves of another place")
        return None
    return checkpoint


def _check_roots(
    signed: Sequence[Checkpoint], hashes: Mapping[merkle.Position, bytes], size: int, report: Report
) -> None:
    """Compare signed roots with the stored tree; a rewritten stretch is named once, by the checkpoints around it."""
    good = 0
    bad: list[Checkpoint] = []
    for checkpoint in signed:
        positions = merkle.decompose(0, checkpoint.size)
        if checkpoint.size > size or any(position not in hashes for position in positions):
            continue
        if merkle.root(checkpoint.size, hashes.__getitem__) != checkpoint.root:
            bad.append(checkpoint)
        elif not bad:
            good = checkpoint.size
    if bad:
        where = span_name(good, bad[0].size)
        message = f"they are not those that the checkpoint of {bad[0].size} leaves signed ({len(bad)} roots differ)"
        report.add("rewritten-leaves", where, message)


def span_name(start: int, end: int) -> str:
    """Leaves ``[start, end)`` for people."""
    return f"leaf {start}" if end - start == 1 else f"leaves {start}-{end - 1}"
