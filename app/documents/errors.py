"""The errors of the documents stage."""

from app.core.errors import SignalboxError, UsageError


class SourceNotFound(UsageError):
    """There is no readable file or folder of that name: check the path, and who may read it."""


class EmptyCorpus(UsageError):
    """No document could be taken from the source, nothing was published: put readable documents in it."""


class CannotConvert(SignalboxError):
    """The document was given up; the message is the reason that stands in the rejects table."""


class ConverterBroken(SignalboxError):
    """The converter process does not start: reinstall docling-slim as constraints.txt says."""


class DocumentsLost(SignalboxError):
    """Documents went in that came out neither published nor rejected: report this, nothing was published."""


class BadLabels(CannotConvert):
    """Access labels are named but cannot be read: publishing the document without them would show it to everyone."""
