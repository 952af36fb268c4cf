"""A ledger as files: leaves as canonical JSON lines, every checkpoint with its cosignatures, the log's public key.

Purpose: hand the log to whoever has no database. ``app.ledger.verify_export`` checks the folder, offline.
Guarantees: all files show one state of the log; the newest checkpoint is written last, so that a folder with a file
``checkpoint`` is whole. Not guaranteed: artifacts; an evidence pack carries those.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, select

from app.core.database import read_rows, snapshot
from app.core.digests import canonical_json
from app.core.errors import UsageError
from app.core.files import replace_text
from app.core.schema import checkpoints, cosignatures, leaves
from app.ledger.log import SERVICE_KEY, Ledger

LEAVES, NOTES, NEWEST, KEY_FILE = "leaves", "checkpoints.jsonl", "checkpoint", f"{SERVICE_KEY}.pub"
FILE_LEAVES = 65_536


class ExportUnusable(UsageError):
    """A folder cannot take an export: name one that is empty or not there yet."""


def export_ledger(ledger: Ledger, folder: Path) -> int:
    """Write the whole log into an empty folder; the number of leaves comes back."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportUnusable(f"{folder} is not an empty folder: name another one for the export")
    (folder / LEAVES).mkdir(parents=True)
    with snapshot(ledger.database) as connection:
        num_leaves = _write_leaves(connection, folder / LEAVES)
        newest = _write_notes(connection, folder / NOTES)
    replace_text(folder / KEY_FILE, ledger.signer.public.vkey + "\n")
    replace_text(folder / NEWEST, newest or ledger.checkpoint())
    return num_leaves


def leaf_files(folder: Path) -> Iterator[Path]:
    """Files of leaves in the order of the log."""
    yield from sorted((folder / LEAVES).glob("*.jsonl"))


def _write_leaves(connection: Connection, folder: Path) -> int:
    rows = (row[0] for row in read_rows(connection, select(leaves.c.leaf).order_by(leaves.c.leaf_index)))
    num_leaves = 0
    while part := list(islice(rows, FILE_LEAVES)):
        (folder / f"{num_leaves:012d}.jsonl").write_bytes(b"".join(bytes(leaf) + b"\n" for leaf in part))
        num_leaves += len(part)
    return num_leaves


def _write_notes(connection: Connection, path: Path) -> str:
    lines: dict[int, list[str]] = {}
    for size, line in connection.execute(
        select(cosignatures.c.size, cosignatures.c.line).order_by(cosignatures.c.line)
    ):
        lines.setdefault(size, []).append(line)
    stored = read_rows(connection, select(checkpoints.c.size, checkpoints.c.note).order_by(checkpoints.c.size))
    notes = [(size, note + "".join(lines.get(size, []))) for size, note in stored]
    path.write_bytes(b"".join(_lines(notes)))
    return notes[-1][1] if notes else ""


def _lines(notes: Iterable[tuple[int, str]]) -> Iterator[bytes]:
    for size, note in notes:
        yield canonical_json({"note": note, "size": size}) + b"\n"
