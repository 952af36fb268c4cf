"""A lease in the database: who may act now, with an epoch that only grows.

Guarantees: taking the lease is one compare-and-set, so that of any number of racing holders one gets it; every taking
raises the epoch; ``guard`` inside a write transaction makes whatever else it writes conditional on that epoch, so that
a holder which was replaced while it slept changes nothing. Not guaranteed: that clocks agree; a clock that is ahead
takes the lease early, which costs a change of holder and nothing else.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update

from app.core.clock import rfc3339, utc_now
from app.core.database import Database
from app.core.errors import SignalboxError
from app.core.schema import lease as table


class LeaseLost(SignalboxError):
    """Another holder has taken the lease: stop acting, or take it again."""


@dataclass(frozen=True)
class Lease:
    """The right to act, as taken: valid as long as the database has the same epoch."""

    name: str
    holder: str
    epoch: int


def take(database: Database, name: str, *, holder: str, duration_s: float, now: datetime | None = None) -> Lease | None:
    """Take a lease that is free, expired, or this holder's own from before a restart; None while another holds it."""
    now = now or utc_now()
    with database.write() as connection:
        row = connection.execute(select(table).where(table.c.name == name)).first()
        if row is None:
            values = {"name": name, "holder": holder, "epoch": 1, "expires_at": _expiry(now, duration_s)}
            connection.execute(insert(table).values(values))
            return Lease(name, holder, 1)
        if row.holder != holder and row.expires_at > _expiry(now, 0):
            return None
        taken = Lease(name, holder, row.epoch + 1)
        _set(connection, taken, expected_epoch=row.epoch, expires_at=_expiry(now, duration_s))
        return taken


def renew(database: Database, lease: Lease, *, duration_s: float, now: datetime | None = None) -> None:
    """Keep the lease for another while.

    Raises:
        LeaseLost: it was taken by another since.
    """
    with database.write() as connection:
        expires_at = _expiry(now or utc_now(), duration_s)
        _set(connection, lease, expected_epoch=lease.epoch, expires_at=expires_at)


def give_back(database: Database, lease: Lease, *, now: datetime | None = None) -> None:
    """Let another holder take it at once; the epoch stays."""
    with database.write() as connection:
        _set(connection, lease, expected_epoch=lease.epoch, expires_at=_expiry(now or utc_now(), -1))


def guard(connection: Connection, lease: Lease) -> None:
    """Refuse to go on with a write transaction unless the lease is still the one in the database.

    Raises:
        LeaseLost: it is not.
    """
    epoch = connection.execute(select(table.c.epoch).where(table.c.name == lease.name)).scalar()
    if epoch != lease.epoch:
        raise LeaseLost(f"the lease {lease.name!r} of epoch {lease.epoch} was taken over (now epoch {epoch})")


def _set(connection: Connection, lease: Lease, *, expected_epoch: int, expires_at: str) -> None:
    statement = update(table).where(table.c.name == lease.name, table.c.epoch == expected_epoch)
    changed = connection.execute(
        statement.values(holder=lease.holder, epoch=lease.epoch, expires_at=expires_at)
    ).rowcount
    if changed != 1:
        raise LeaseLost(f"the lease {lease.name!r} of epoch {expected_epoch} was taken over by another holder")


def _expiry(now: datetime, duration_s: float) -> str:
    return rfc3339(now + timedelta(seconds=duration_s))
