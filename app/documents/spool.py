"""Outcomes on disk while an ingest runs: memory holds where each one stands, and a killed run goes on with them.

Guarantees: an outcome that was read back is whole; a line that a kill cut short is dropped; while one run writes a
spool, a second one of the same work writes its own. Not guaranteed: outcomes that were written in the second before the
machine itself went down.
"""

import fcntl
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from app.documents.work import Outcome

Order = tuple[int, int]


class Spool:
    """An append-only file of outcomes, one JSON line each; a context manager. ``orders`` are those that it holds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path: Path | None = path
        self._file: BinaryIO = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            self._path, self._file = None, tempfile.TemporaryFile()  # noqa: SIM115
        self._places: dict[Order, int] = {}
        self._recover()

    @property
    def orders(self) -> list[Order]:
        """The order of every outcome that is held, in order."""
        return sorted(self._places)

    def keep(self, wanted: Callable[[Order], bool]) -> None:
        """Forget the outcomes whose order is not wanted; they are to come again."""
        self._places = {order: place for order, place in self._places.items() if wanted(order)}

    def add(self, outcome: Outcome) -> None:
        """Append an outcome; one that is held already takes the place of the old."""
        self.add_line(json.dumps(outcome), outcome["order"])

    def add_line(self, line: str, order: list[int]) -> None:
        """Append an outcome that is JSON already."""
        place = self._file.seek(0, 2)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self._places[order[0], order[1]] = place

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome, in order."""
        for order in self.orders:
            self._file.seek(self._places[order])
            outcome: Outcome = json.loads(self._file.readline())
            yield outcome

    def remove(self) -> None:
        """Delete the file: what it held is published."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _recover(self) -> None:
        self._file.seek(0)
        place = 0
        for line in self._file:
            try:
                order = json.loads(line)["order"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self._places[order[0], order[1]] = place
            place += len(line)
        self._file.truncate(place)
