"""Requests that no part of the log holds yet, in a file: what a killed process was about to write, another writes.

A writer adds each sealed row to its journal before the answer goes out, gives the journal the name of the part that the
rows go to, and removes it when that part is there. ``recover`` does the rest for writers that died.

Guarantees: a row whose ``add`` returned outlives its process; recovered, it is in exactly one part, with the receipt
that its client has; a living writer's journal is left alone (it holds a lock on it, see flock(2)). Not guaranteed: that
a row outlives the machine: nothing waits for the disk.
"""

import base64
import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from app.core.clock import utc_now
from app.ledger.batches import Sealed, write_part

logger = logging.getLogger(__name__)
SUFFIX, BEGUN, UNREADABLE = ".journal", ".begun", ".unreadable"
NAME_TIME = "%Y%m%dT%H%M%S%f"
"""Names of parts begin with the time at which they were written."""
BYTES, TIME = "bytes", "time"


class Journal:
    """The journal of one part to be; OSError where the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f".open-{uuid.uuid4().hex}{SUFFIX}"
        begun = self._path.with_suffix(BEGUN)  # not a journal's name before the lock is held
        self._file = begun.open("wb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        begun.replace(self._path)

    def add(self, sealed: Sealed) -> None:
        """Keep one row; it is in the system's hands when this returns."""
        self._file.write(_line(sealed))

    def becomes(self, part: Path) -> None:
        """Say which part the rows go to, before that is written."""
        with suppress(FileNotFoundError):  # somebody removed it: the rows are in memory still
            self._path = self._path.replace(_named_after(part))

    def remove(self) -> None:
        """The part is there."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def new_part(folder: Path) -> Path:
    """A name that no other part has, and that sorts behind all earlier ones of this clock."""
    return folder / f"{utc_now():{NAME_TIME}}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"


def recover(folder: Path) -> list[Path]:
    """Write what the journals of dead writers hold into parts, which come back; OSError where that cannot be.

    A file that is no journal is set aside under another name.
    """
    return [part for path in sorted(folder.glob(f".*{SUFFIX}")) if (part := _recover(path)) is not None]


def _recover(path: Path) -> Path | None:
    with _taken(path) as file:
        if file is None:
            return None
        try:
            rows = _rows(file)
        except (ValueError, TypeError) as error:
            logger.warning("%s is no journal (%s): it is set aside", path, error)
            path.replace(path.with_suffix(UNREADABLE))
            return None
        part = new_part(path.parent)
        if not rows or (path.parent / f"{_stem(path)}.parquet").exists():
            path.unlink()
            return None
        path = path.replace(_named_after(part))
        write_part(part, rows)
        path.unlink()
        return part


@contextmanager
def _taken(path: Path) -> Iterator[BinaryIO | None]:
    """A journal that nobody holds, held; None where somebody does, or did and removed it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        yield file if mine else None


def _rows(file: BinaryIO) -> list[Sealed]:
    """The rows of a journal; the last line of a writer that died in the middle of it is none: nobody was answered."""
    whole = [line for line in file.read().split(b"\n")[:-1] if line]
    return [_sealed(line) for line in whole]


def _named_after(part: Path) -> Path:
    """A name for a journal of this part; a part may have several."""
    return part.with_name(f".{part.stem}~{uuid.uuid4().hex[:8]}{SUFFIX}")


def _stem(journal: Path) -> str:
    return journal.name[1:].removesuffix(SUFFIX).partition("~")[0]


def _line(sealed: Sealed) -> bytes:
    return json.dumps([sealed.leaf, sealed.row], ensure_ascii=False, default=_packed).encode() + b"\n"


def _sealed(line: bytes) -> Sealed:
    leaf, row = json.loads(line, object_hook=_unpacked)
    return Sealed(row, leaf)


def _packed(value: Any) -> dict[str, str]:
    """What JSON has not; no row holds an object with one of these names."""
    if isinstance(value, datetime):
        return {TIME: value.isoformat()}
    return {BYTES: base64.b64encode(value).decode()}


def _unpacked(value: dict[str, Any]) -> Any:
    if value.keys() == {TIME}:
        return datetime.fromisoformat(value[TIME])
    return base64.b64decode(value[BYTES]) if value.keys() == {BYTES} else value
