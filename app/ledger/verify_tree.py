"""Recompute the log: leaves, tree nodes, signed checkpoints.

Guarantees: every leaf whose bytes, hash or columns changed is named; every inner node is compared with its children, so
that a change is named where it was made; every checkpoint's signature and root is checked, which proves all of them
consistent with one another. Not guaranteed: to see a log cut back together with its checkpoints; only a copy of a later
checkpoint outside of the database shows that.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import Connection, select

from app.core.database import read_rows
from app.core.schema import checkpoints, leaves, tree_runs
from app.ledger import merkle
from app.ledger.faults import Report
from app.ledger.keys import Verifier
from app.ledger.log import NotAStatement, Statement, origin_of
from app.ledger.note import BadNote, Checkpoint, NotSigned, open_note, read_checkpoint
from app.ledger.tree import nodes_in

Level: TypeAlias = list[bytes] | dict[int, bytes]
"""The hashes of one level by index: a list where none is missing, so that a whole tree is compared in few steps."""
MAX_LEVEL = 64


@dataclass(slots=True)
class Row:
    """A stored leaf: what its columns say, and its statement when it can be read."""

    index: int
    kind: str
    subject: str
    statement: Statement | None


class Levels:
    """The stored hashes of a tree of ``size`` leaves, level by level from the leaves up."""

    def __init__(self, size: int, levels: Sequence[Level]) -> None:
        self.size = size
        self._levels = levels

    def __len__(self) -> int:
        return len(self._levels)

    def row(self, level: int) -> Level:
        return self._levels[level] if level < len(self._levels) else []

    def get(self, position: merkle.Position) -> bytes | None:
        """The hash at a position; None where there is none."""
        level, index = position
        row = self.row(level)
        if isinstance(row, dict):
            return row.get(index)
        return row[index] if index < len(row) else None

    def root(self, size: int) -> bytes | None:
        """Root over the first ``size`` leaves; None where a hash that it needs is missing."""
        found = [self.get(position) for position in merkle.decompose(0, size)]
        hashes = [each for each in found if each is not None]
        return merkle.fold(hashes) if len(hashes) == len(found) else None


@dataclass(frozen=True)
class Tree:
    """What was read of a log, for further checks."""

    rows: list[Row]
    levels: Levels
    notes: dict[int, str]
    """Checkpoints by the size that their row states."""


def verify_tree(connection: Connection, verifier: Verifier | None, report: Report) -> Tree:
    """Check the three tables of the log against one another."""
    rows, bottom = _check_leaves(connection, report)
    report.num_leaves = len(rows)
    levels = Levels(rows[-1].index + 1 if rows else 0, [bottom, *_read_runs(connection, report)])
    _check_nodes(levels, report)
    stored = read_rows(connection, select(checkpoints.c.size, checkpoints.c.note).order_by(checkpoints.c.size))
    notes = [(size, note if isinstance(note, str) else "") for size, note in stored]
    check_checkpoints(notes, levels, verifier, report)
    return Tree(rows, levels, dict(notes))


def _check_leaves(connection: Connection, report: Report) -> tuple[list[Row], Level]:
    rows: list[Row] = []
    hashes: list[bytes] = []
    expected = 0
    query = select(leaves.c.leaf_index, leaves.c.kind, leaves.c.subject, leaves.c.leaf, leaves.c.leaf_hash)
    for index, kind, subject, data, stored in read_rows(connection, query.order_by(leaves.c.leaf_index)):
        if index != expected:
            message = "deleted from the database: restore it from a backup"
            report.add("missing-leaf", span_name(expected, index), message)
        expected = index + 1
        if not isinstance(data, bytes) or not isinstance(stored, bytes):
            report.add("changed-leaf", f"leaf {index}", "its row holds text where bytes were stored: it was changed")
            data, stored = (each if isinstance(each, bytes) else str(each).encode() for each in (data, stored))
        hashes.append(stored)
        rows.append(Row(index, kind, subject, check_leaf(index, kind, subject, data, stored, report)))
    if expected == len(rows):
        return rows, hashes
    return rows, {row.index: value for row, value in zip(rows, hashes, strict=True)}


def check_leaf(index: int, kind: str, subject: str, data: bytes, stored: bytes, report: Report) -> Statement | None:
    """The statement of a leaf, held against its hash and its columns; None when it is not as it was appended."""
    try:
        statement = Statement.from_bytes(data)
    except NotAStatement:
        statement = None
    if merkle.leaf_hash(data) != stored:
        message = f"the bytes of this {kind} leaf and its hash differ: one was changed"
        report.add("changed-leaf", f"leaf {index}", message)
        return None
    if statement is None:
        message = "it is no statement in canonical form: the log did not append it"
        report.add("changed-leaf", f"leaf {index}", message)
    elif statement.kind != kind or statement.subject != subject:
        message = f"its columns say {kind} {subject}, its bytes say otherwise: a row was changed"
        report.add("changed-leaf", f"leaf {index}", message)
    return statement


def _read_runs(connection: Connection, report: Report) -> Iterator[Level]:
    """Levels from the first above the leaves on; a run that no tree can have is named and left out."""
    query = select(tree_runs.c.level, tree_runs.c.start, tree_runs.c.hashes)
    stored = read_rows(connection, query.order_by(tree_runs.c.level, tree_runs.c.start))
    next_level = 1
    for level, runs in groupby(stored, itemgetter(0)):
        if not isinstance(level, int) or not 0 < level <= MAX_LEVEL:
            report.add("stray-node", f"tree nodes of level {level}", "no tree has such a level: they were inserted")
            continue
        yield from ([] for _ in range(next_level, level))
        yield _join(level, runs, report)
        next_level = level + 1


def _join(level: int, runs: Iterable[Sequence[Any]], report: Report) -> Level:
    joined: list[bytes] = []
    apart: dict[int, bytes] = {}
    end = 0
    for _, start, data in runs:
        if not isinstance(start, int) or not isinstance(data, bytes):
            report.add(
                "stray-node", f"tree nodes {level}/{start}", "their row holds what no append wrote: it was changed"
            )
            continue
        hashes = nodes_in(data)
        if start < end:
            where = f"tree nodes {level}/{start} to {level}/{start + len(hashes) - 1}"
            report.add("stray-node", where, "others stand at their place already: they were inserted")
            continue
        if start > end and not apart:
            apart = dict(enumerate(joined))
        if apart or start > end:
            apart.update(enumerate(hashes, start))
        else:
            joined += hashes
        end = start + len(hashes)
    return apart or joined


def _check_nodes(levels: Levels, report: Report) -> None:
    """Hold every level against the one below; only where they differ is it looked at node by node."""
    for level in range(1, max(len(levels), levels.size.bit_length())):
        below, here = levels.row(level - 1), levels.row(level)
        if isinstance(below, list) and len(below) == levels.size >> (level - 1) and here == merkle.parents(below):
            continue
        _check_level(level, levels, report)


def _check_level(level: int, levels: Levels, report: Report) -> None:
    below, here = (set(_indexes(levels.row(each))) for each in (level - 1, level))
    num_nodes = levels.size >> level
    for index in sorted(here | {child >> 1 for child in below if child >> 1 < num_nodes}):
        fault = _node_fault((level, index), levels, known=index < num_nodes)
        if fault:
            report.add(*fault)


def _indexes(row: Level) -> Iterable[int]:
    return row if isinstance(row, dict) else range(len(row))


def _node_fault(position: merkle.Position, levels: Levels, *, known: bool) -> tuple[str, str, str] | None:
    level, index = position
    where = f"tree node {level}/{index} over {span_name(index << level, (index + 1) << level)}"
    stored = levels.get(position)
    if not known:
        return "stray-node", where, "no tree of this size has it: it was inserted, or leaves were deleted"
    if stored is None:
        return "missing-node", where, "deleted from the database: restore it from a backup"
    left, right = levels.get((level - 1, 2 * index)), levels.get((level - 1, 2 * index + 1))
    if left is None or right is None or merkle.node_hash(left, right) == stored:
        return None
    return "changed-node", where, "it is not the hash of its two children: it or one of them was changed or moved"


def check_checkpoints(
    notes: Sequence[tuple[int, str]], levels: Levels, verifier: Verifier | None, report: Report
) -> None:
    """Check signed notes by stated size, smallest first: signatures, roots, and that all leaves are signed."""
    report.num_checkpoints = len(notes)
    if verifier and notes and all(_is_foreign(note, verifier) for _, note in notes):
        message = (
            f"it has signed none of the {len(notes)} checkpoints: it is another log's, or this log was written anew"
        )
        report.add("wrong-key", f"key {verifier.vkey}", message)
    elif verifier:
        signed = [_check_note(stated, note, verifier, report) for stated, note in notes]
        _check_roots([checkpoint for checkpoint in signed if checkpoint], levels, report)
    last, size = notes[-1][0] if notes else 0, levels.size
    if last < size:
        report.add("unsigned-leaf", span_name(last, size), "no checkpoint has signed them: the log did not append them")
    if last > size:
        report.add(
            "missing-leaf", span_name(size, last), "a checkpoint has signed them: the log was cut; restore a backup"
        )


def _is_foreign(note: str, verifier: Verifier) -> bool:
    try:
        open_note(note, [verifier])
    except BadNote as error:
        return isinstance(error, NotSigned)
    return False


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


def _check_roots(signed: Sequence[Checkpoint], levels: Levels, report: Report) -> None:
    """Compare signed roots with the stored tree; a rewritten stretch is named once, by the checkpoints around it."""
    good = 0
    bad: list[Checkpoint] = []
    for checkpoint in signed:
        root = levels.root(checkpoint.size) if checkpoint.size <= levels.size else None
        if root is None:
            continue
        if root != checkpoint.root:
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
