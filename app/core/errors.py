"""The errors that a user can meet. Every message is one sentence that says what to do.

Guarantees: whatever Signalbox raises on purpose derives from ``SignalboxError`` and carries the exit status that a
command ends with. Not guaranteed: that libraries below raise nothing else.
"""


class SignalboxError(Exception):
    """Something failed at run time; the message says what to do. Exit status 1."""

    exit_status = 1


class UsageError(SignalboxError):
    """The request itself cannot be met as it was made; the message says how to make it. Exit status 2."""

    exit_status = 2
