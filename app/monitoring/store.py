"""What the monitor has seen and decided, in the database.

Guarantees: a window is recorded once, together with the trigger that it may start, in one transaction that only the
holder of the lease can commit; recording it again changes nothing. A trigger moves from status to status by
compare-and-set. Not guaranteed: anything about jobs; see ``monitor.py`` for how they follow from triggers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, select, update

from app.core.clock import timestamp
from app.core.database import Database
from app.core.digests import canonical_json, digest_json, hex_of
from app.core.schema import ticks, triggers
from app.monitoring.drift import Figure, alarming_signals
from app.monitoring.lease import Lease, guard

WINDOW = "window"
DRIFT = "drift"

Status = Literal["recorded", "published", "submitted", "candidate", "refused", "failed", "stopped"]
WITHOUT_CANDIDATE: tuple[Status, ...] = ("refused", "failed", "stopped")


@dataclass(frozen=True)
class Window:
    """One judged window of the request log. ``end`` is the position of its last request and its key."""

    release: str
    baseline: str
    start: str
    end: str
    num_requests: int
    alarm: bool
    figures: tuple[Figure, ...] = ()

    @property
    def signals(self) -> list[str]:
        """Signals past their thresholds."""
        return alarming_signals(self.figures)

    def to_json(self) -> dict[str, Any]:
        """For reports and the ledger."""
        fields = {
            name: getattr(self, name) for name in ("release", "baseline", "start", "end", "num_requests", "alarm")
        }
        return fields | {"signals": self.signals, "figures": [figure.to_json() for figure in self.figures]}


@dataclass(frozen=True)
class Trigger:
    """A decision to retrain, and how far it has come. ``job_id`` is that of the last submission."""

    id: str
    created_at: str
    kind: str
    window_end: str
    reason: Mapping[str, Any]
    status: Status
    job_id: str | None


class MonitorStore:
    """Windows and triggers of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def record(self, window: Window, *, lease: Lease, with_trigger: bool) -> bool:
        """Record a judged window and, with it, its trigger; False when the window was recorded before.

        Raises:
            LeaseLost: another monitor acts now; nothing was written.
        """
        with self.database.write() as connection:
            guard(connection, lease)
            if _is_recorded(connection, window.end):
                return False
            connection.execute(insert(ticks), list(_tick_rows(window, lease.epoch)))
            if with_trigger:
                connection.execute(insert(triggers).values(_trigger_row(window)))
            return True

    def move(self, trigger: Trigger, status: Status, *, lease: Lease, job_id: str | None = None) -> bool:
        """Set a trigger's status (and job) if it is still the one given; False when it has moved on.

        Raises:
            LeaseLost: another monitor acts now; nothing was written.
        """
        with self.database.write() as connection:
            guard(connection, lease)
            query = update(triggers).where(triggers.c.id == trigger.id, triggers.c.status == trigger.status)
            query = query.where(triggers.c.job_id.is_not_distinct_from(trigger.job_id))
            values = {"status": status, "job_id": job_id or trigger.job_id}
            return connection.execute(query.values(values)).rowcount == 1

    def windows(self, release: str | None = None) -> list[Window]:
        """Recorded windows, oldest first, of one release when it is given."""
        query = select(ticks).order_by(ticks.c.window_end)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        found = [_window(group) for group in _by_window(rows)]
        return [window for window in found if release in (None, window.release)]

    def last_end(self, release: str) -> str | None:
        """Position of the last request of a release's last recorded window."""
        query = select(ticks).where(ticks.c.signal == WINDOW).order_by(ticks.c.window_end.desc())
        with self.database.read() as connection:
            ends = (row.window_end for row in connection.execute(query) if json.loads(row.result)["release"] == release)
            return next(ends, None)

    def num_windows_after(self, window_end: str) -> int:
        """How many windows end after a position, of whatever release."""
        query = select(func.count()).where(ticks.c.signal == WINDOW, ticks.c.window_end > window_end)
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def triggers(self) -> list[Trigger]:
        """Triggers, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(select(triggers).order_by(triggers.c.window_end)).all()
        return [_trigger(row) for row in rows]

    def trigger(self, trigger_id: str) -> Trigger | None:
        """One trigger by its id."""
        with self.database.read() as connection:
            row = connection.execute(select(triggers).where(triggers.c.id == trigger_id)).first()
        return _trigger(row) if row else None


def trigger_id(window: Window) -> str:
    """The id that a window's trigger has, whoever records it."""
    return f"trigger-{hex_of(digest_json([window.baseline, window.end]))[:16]}"


def _is_recorded(connection: Connection, window_end: str) -> bool:
    query = select(ticks.c.epoch).where(ticks.c.signal == WINDOW, ticks.c.window_end == window_end)
    return connection.execute(query).first() is not None


def _tick_rows(window: Window, epoch: int) -> Iterable[dict[str, Any]]:
    whole = window.to_json()
    figures = whole.pop("figures")
    for signal, result in [(WINDOW, whole), *((figure["name"], figure) for figure in figures)]:
        yield {"signal": signal, "window_end": window.end, "epoch": epoch, "result": _text(result)}


def _trigger_row(window: Window) -> dict[str, Any]:
    return {
        "id": trigger_id(window),
        "created_at": timestamp(),
        "kind": DRIFT,
        "window_end": window.end,
        "reason": _text(window.to_json()),
        "status": "recorded",
        "job_id": None,
    }


def _by_window(rows: Sequence[Row[Any]]) -> Iterable[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        groups.setdefault(row.window_end, {})[row.signal] = json.loads(row.result)
    return groups.values()


def _window(group: Mapping[str, Any]) -> Window:
    fields = {name: value for name, value in group[WINDOW].items() if name != "signals"}
    figures = tuple(Figure.from_json(result) for name, result in group.items() if name != WINDOW)
    return Window(**fields, figures=figures)


def _trigger(row: Row[Any]) -> Trigger:
    return Trigger(row.id, row.created_at, row.kind, row.window_end, json.loads(row.reason), row.status, row.job_id)


def _text(value: Any) -> str:
    return canonical_json(value).decode()
