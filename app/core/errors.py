"""The errors that a user can meet. Every message is one sentence that says what to do.

Guarantees: whatever Signalbox raises on purpose derives from ``SignalboxError`` and carries the exit status that a
command ends with. Not guaranteed: that libraries below raise nothing else.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_S = 2.0
"""SIGTERM within so long of the first is the same: `timeout` sends it to a process and to its group."""


class SignalboxError(Exception):
    """Something failed at run time; the message says what to do. Exit status 1."""

    exit_status = 1


class UsageError(SignalboxError):
    """The request itself cannot be met as it was made; the message says how to make it. Exit status 2."""

    exit_status = 2


@contextmanager
def exit_status() -> Iterator[None]:
    """Turn a ``SignalboxError`` of the block into its sentence on stderr and its exit status; the edge of a command.

    SIGTERM ends the block as an error does: one sentence, exit status 143, and nothing half-written is published.
    """
    before = signal.getsignal(signal.SIGTERM)
    end_on_sigterm()
    try:
        yield
    except SignalboxError as error:
        print(f"signalbox: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from error
    finally:
        if _may_handle() and before is not None:
            signal.signal(signal.SIGTERM, before)


def end_on_sigterm() -> None:
    """Let SIGTERM unwind this process from now on; again after a library that set a handler of its own."""
    if _may_handle():
        signal.signal(signal.SIGTERM, _unwind)


def _may_handle() -> bool:
    return threading.current_thread() is threading.main_thread()


def _unwind(number: int, _frame: FrameType | None) -> None:
    """A later SIGTERM ends the process where it stands, in the middle of its tidying up."""
    first_s = time.monotonic()

    def again(number: int, _frame: FrameType | None) -> None:
        if time.monotonic() - first_s > SAME_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, again)
    os.write(2, b"signalbox: ended by SIGTERM before it was done: the same command again goes on or begins anew\n")
    raise SystemExit(128 + number)
