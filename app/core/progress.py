"""Progress of long work: a live bar on a terminal, plain lines elsewhere.

Guarantees: in a log file or a job's driver log at most one line every ``PLAIN_EVERY_S`` seconds, and one when the
work ends, unless the line before said the same.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_EVERY_S = 5.0


class Progress:
    """Counts units of work and shows them; made by :func:`progress`."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done, self.text = name, total, 0, ""
        self.started_s = self._shown_s = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._shown: tuple[int, str] | None = None

    def advance(self, num: int = 1, text: str = "") -> None:
        """Count ``num`` more units; ``text`` stands behind the count."""
        self.done, self.text = self.done + num, text
        self._first = self._first or (time.monotonic(), self.done)
        self._show()

    def line(self) -> str:
        """The state in one line, with the time that is left."""
        of_total = f"/{self.total}" if self.total else ""
        elapsed_s = time.monotonic() - self.started_s
        return f"{self.name}: {self.done}{of_total} in {elapsed_s:.0f} s{self._left()}  {self.text}".rstrip()

    def _left(self) -> str:
        """By the pace since the first count: what came before it was starting, or was done in an earlier run."""
        if not self._first or not self.total or not self._first[1] < self.done < self.total:
            return ""
        pace_s = (time.monotonic() - self._first[0]) / (self.done - self._first[1])
        return f", {(self.total - self.done) * pace_s:.0f} s left"

    def _show(self, *, last: bool = False) -> None:
        now_s = time.monotonic()
        live = sys.stderr.isatty()
        if last and not live and (self.done, self.text) == self._shown:
            return
        if not last and now_s - self._shown_s < (0.1 if live else PLAIN_EVERY_S):
            return
        self._shown_s, self._shown = now_s, (self.done, self.text)
        start, end = ("\r\x1b[2K", "\n" if last else "") if live else ("", "\n")
        sys.stderr.write(f"{start}{self.line()}{end}")
        sys.stderr.flush()


@contextmanager
def progress(name: str, total: int | None = None) -> Iterator[Progress]:
    """Show the progress of the work in the block; ``total`` is the number of units, when it is known."""
    bar = Progress(name, total)
    try:
        yield bar
    finally:
        bar._show(last=True)


@contextmanager
def watched(watch: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run ``watch`` in a thread beside the block; the block's end sets the event, which is to end it."""
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(stop,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
