"""The errors that a user can meet. Every message is one sentence that says what to do.

Guarantees: whatever Signalbox raises on purpose derives from ``SignalboxError`` and carries the exit status that a
command ends with. Not guaranteed: that libraries below raise nothing else.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalboxError(Exception):
    """Something failed at run time; the message says what to do. Exit status 1."""

    exit_status = 1


class UsageError(SignalboxError):
    """The request itself cannot be met as it was made; the message says how to make it. Exit status 2."""

    exit_status = 2


@contextmanager
def exit_status() -> Iterator[None]:
    """Turn a ``SignalboxError`` of the block into its sentence on stderr and its exit status; the edge of a command."""
    try:
        yield
    except SignalboxError as error:
        print(f"signalbox: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from error
