"""Time, in UTC, as the ledger and the logs write it."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def timestamp() -> str:
    """The present moment as RFC 3339 with microseconds, such as ``2026-11-22T21:00:00.123456Z``."""
    return rfc3339(utc_now())


def rfc3339(moment: datetime) -> str:
    """An aware moment as :func:`timestamp` writes it, in UTC; such texts sort as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
