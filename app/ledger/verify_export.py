"""`signalbox verify --ledger DIR`: check an exported log with its files and a public key, without a database.

Guarantees: every leaf, checkpoint and cosignature in the folder is checked and every fault named; with a checkpoint
that the auditor kept, a log that was cut back or rewritten since is found even when it was signed again.
Not guaranteed: anything about artifacts, which an export does not hold; the identity of the log where no public key
is brought along, since a forger would put a key of his own into the folder.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from app.core.errors import UsageError
from app.core.files import FileUnusable, read_text
from app.ledger import merkle
from app.ledger.auditor import Auditor, check_auditor
from app.ledger.export import KEY_FILE, LEAVES, NEWEST, NOTES, leaf_files
from app.ledger.faults import Report, collector_paused
from app.ledger.keys import Verifier
from app.ledger.log import NotAStatement, Statement
from app.ledger.merkle import natural
from app.ledger.note import BadNote, split_note
from app.ledger.verify_lineage import verify_lineage
from app.ledger.verify_tree import Levels, Row, check_checkpoints
from app.ledger.witness import Witness, lines_by, trusted_in


class NoExport(UsageError):
    """A folder holds no exported ledger: name one that `signalbox ledger export` wrote."""


def verify_export(folder: Path, auditor: Auditor | None = None) -> Report:
    """Check an exported ledger.

    Raises:
        NoExport: the folder is none.
    """
    if not (folder / LEAVES).is_dir() and not (folder / NEWEST).is_file():
        raise NoExport(f"{folder} holds no exported ledger: name a folder that `signalbox ledger export` wrote")
    report, auditor = Report(), auditor or Auditor()
    verifier = auditor.verifier(folder / KEY_FILE, report)
    if auditor.key is None:
        report.notes.append("the public key came with the export: bring one got by another way along, with --key")
    with collector_paused():
        _verify(folder, auditor, verifier, report)
    return report


def _verify(folder: Path, auditor: Auditor, verifier: Verifier | None, report: Report) -> None:
    hashes, rows = _check_leaves(folder, report)
    levels = _recompute(hashes)
    notes = _read_notes(folder, report)
    check_checkpoints(notes, levels, verifier, report)
    _check_newest(folder, notes, report)
    verify_lineage(rows, report)
    cosigned = _cosignatures(notes, [*trusted_in(row.statement for row in rows if row.statement), *auditor.witnesses])
    check_auditor(
        auditor, levels=levels, verifier=verifier, rows=rows, notes=dict(notes), cosigned=cosigned, report=report
    )


def _check_leaves(folder: Path, report: Report) -> tuple[list[bytes], list[Row]]:
    """Hash of every line, and the leaves that can be read."""
    hashes: list[bytes] = []
    rows: list[Row] = []
    for path in leaf_files(folder):
        report.num_files += 1
        if path.name != f"{len(hashes):012d}.jsonl":
            report.add("missing-leaf", path.name, f"leaf {len(hashes)} should stand here: a file was taken or renamed")
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            report.add("unreadable-file", path.name, f"it cannot be read ({error.strerror}): export the ledger again")
            continue
        if lines.pop():
            report.add("changed-leaf", path.name, "it does not end with a whole line: it was cut")
        for line in lines:
            try:
                said = Statement.from_bytes(line)
                rows.append(Row(len(hashes), said.kind, said.subject, said))
            except NotAStatement:
                message = "it is no statement in canonical form: the log did not append it"
                report.add("changed-leaf", f"leaf {len(hashes)}", message)
            hashes.append(merkle.leaf_hash(line))
    report.num_leaves = len(hashes)
    return hashes, rows


def _recompute(row: list[bytes]) -> Levels:
    levels = [row]
    while len(levels[-1]) > 1:
        levels.append(merkle.parents(levels[-1]))
    return Levels(len(row), levels)


def _read_notes(folder: Path, report: Report) -> list[tuple[int, str]]:
    """Checkpoints by stated size, smallest first."""
    report.num_files += 1
    notes: dict[int, str] = {}
    try:
        lines = read_text(folder / NOTES).split("\n")[:-1]
    except FileUnusable as error:
        report.add("missing-checkpoint", NOTES, f"no checkpoint can be checked: {error}")
        lines = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            size, note = natural(values["size"]), str(values["note"])
        except (ValueError, KeyError, TypeError, RecursionError):
            report.add("changed-checkpoint", f"{NOTES} line {number}", "it is not a size and a note: it was changed")
            continue
        if size in notes:
            message = f"a second checkpoint of {size} leaves: the log signs one of each size, so one was put there"
            report.add("changed-checkpoint", f"{NOTES} line {number}", message)
        notes[size] = note
    return sorted(notes.items())


def _check_newest(folder: Path, notes: Sequence[tuple[int, str]], report: Report) -> None:
    report.num_files += 1
    try:
        newest = read_text(folder / NEWEST)
    except FileUnusable as error:
        report.add("missing-checkpoint", NEWEST, f"the newest checkpoint cannot be read: {error}")
        return
    if notes and newest != notes[-1][1]:
        report.add("changed-checkpoint", NEWEST, f"it is not the last one of {NOTES}: one of them was changed")


def _cosignatures(notes: Sequence[tuple[int, str]], trusted: Sequence[Witness]) -> Iterator[tuple[int, str, str]]:
    for size, note in notes:
        with suppress(BadNote):
            yield from ((size, witness.digest, line) for witness, line in lines_by(trusted, split_note(note)[1]))
