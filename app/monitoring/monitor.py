"""One look of the monitor: judge new windows of the request log, and carry triggers on to retraining jobs.

The database decides, jobs follow: a window and its trigger are recorded in one transaction under the lease's epoch, and
everything after it (ledger statement, job) is derived from the trigger's row and is idempotent by its id. So a monitor
may die between any two steps, and the next one goes on from the row.

Guarantees: a window is judged once; an alarm voids the guarantee of the release's router, whether or not it starts a
retraining; it starts at most one at a time for a release; a job that ends without a verdict is submitted again, up to
``max_job_attempts``. Not guaranteed: exactly one look a period.
"""

import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from app.core.clock import utc_now
from app.governance.guarantees import router_of, standing_of, void_guarantee, void_if_swapped
from app.ledger.log import CANARY, PROMOTION
from app.monitoring import drift
from app.monitoring.baseline import Baseline, find_baseline, load_baseline, publish_baseline
from app.monitoring.lease import Lease, LeaseLost, give_back, renew, take
from app.monitoring.ratings import bad_ratings, feedback_figure
from app.monitoring.requests import read_requests
from app.monitoring.settings import MonitorSettings
from app.monitoring.signals import Row, row_key, usable_rows
from app.monitoring.store import DRIFT, WITHOUT_CANDIDATE, MonitorStore, Status, Trigger, Window
from app.registry.versions import Registry, Version, VersionNotFound

logger = logging.getLogger(__name__)

LEASE = "monitor"
TRIGGER = "trigger"
CODE_VERSION = "monitor-1"
READ_LIMIT = 10_000

Outcome = Literal["running", "candidate", "refused", "broken", "unusable", "stopped"]
ENDINGS: dict[Outcome, Status] = {
    "candidate": "candidate",
    "refused": "refused",
    "stopped": "stopped",
    "unusable": "failed",
}
"""Outcomes of a job that end its trigger; ``broken`` (or a job that nobody knows any more) is tried again."""


class Jobs(Protocol):
    """How retraining jobs are started and followed."""

    def start(self, trigger_id: str, *, submission_id: str) -> None:
        """Submit the retraining of a trigger; one that was submitted under this id before is left alone."""

    def outcome(self, submission_id: str) -> Outcome | None:
        """How a job stands; None when it is not known."""


class Monitor:
    """Looks at the log of one release; ``holder`` is the same before and after a restart of the same actor."""

    def __init__(
        self,
        *,
        registry: Registry,
        settings: MonitorSettings,
        jobs: Jobs,
        holder: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.registry, self.settings, self.jobs, self.holder, self.clock = registry, settings, jobs, holder, clock
        self.store = MonitorStore(registry.database)
        self.left_out: dict[str, int] = {}
        self._lease: Lease | None = None
        self._baseline: Baseline | None = None

    def tick(self) -> bool:
        """Look once; False when another monitor holds the lease.

        Raises:
            LeaseLost: another monitor took over in between; nothing was changed after that.
        """
        lease = self._hold()
        if lease is None:
            return False
        self._follow(lease)
        if self._watch(lease):
            self._follow(lease)
        return True

    def close(self) -> None:
        """Give the lease back, so that a successor need not wait."""
        if self._lease:
            give_back(self.registry.database, self._lease, now=self.clock())
            self._lease = None

    def _hold(self) -> Lease | None:
        database, duration_s = self.registry.database, self.settings.lease_s
        if self._lease:
            try:
                renew(database, self._lease, duration_s=duration_s, now=self.clock())
            except LeaseLost as error:
                logger.warning("%s", error)
                self._lease = None
        if self._lease is None:
            self._lease = take(database, LEASE, holder=self.holder, duration_s=duration_s, now=self.clock())
        return self._lease

    def _watch(self, lease: Lease) -> bool:
        """Judge the windows that are whole; whether there were any."""
        release = self._release()
        baseline = self._baseline_of(release) if release else None
        if baseline is None:
            return False
        start = self.store.last_end(baseline.release) or ""
        start = max(start, baseline.end)
        size = self.settings.window_size
        rows = self._requests(baseline.release, since=start, enough=size)
        for first in range(0, len(rows) - size + 1, size):
            renew(self.registry.database, lease, duration_s=self.settings.lease_s, now=self.clock())
            self._judge(baseline, rows[first : first + size], lease)
        return len(rows) >= size

    def _judge(self, baseline: Baseline, rows: list[Row], lease: Lease) -> None:
        said = feedback_figure(bad_ratings(self.registry.database, baseline.release), settings=self.settings)
        figures = (*baseline.measure(rows), *([said] if said else []))
        window = Window(
            release=baseline.release,
            baseline=baseline.version.digest,
            start=row_key(rows[0]),
            end=row_key(rows[-1]),
            num_requests=len(rows),
            alarm=drift.is_alarm(figures, min_signals=self.settings.min_signals),
            figures=figures,
        )
        if window.alarm:
            self._void(window)
        self.store.record(window, lease=lease, with_trigger=window.alarm and self._may_trigger(window))

    def _void(self, window: Window) -> None:
        """Enter that the guarantee of the release's router no longer holds; before anything else, and idempotent."""
        router = router_of(self.registry.get("release", window.release), registry=self.registry)
        if router is None or not standing_of(self.registry, router.digest).stated:
            return
        reason = f"drift in {', '.join(window.signals)} of requests up to {window.end.partition('/')[0]}"
        if void_guarantee(router, reason, registry=self.registry, parents=[window.baseline]):
            logger.warning("the guarantee of router %s is void: %s", router.ref, reason)

    def _may_trigger(self, window: Window) -> bool:
        for trigger in self.store.triggers():
            if trigger.reason["release"] != window.release:
                continue
            if trigger.status not in WITHOUT_CANDIDATE:
                return False
            if self.store.num_windows_after(trigger.window_end) < self.settings.cooldown_windows:
                return False
        return True

    def _follow(self, lease: Lease) -> None:
        """Carry every open trigger one or more steps on."""
        for trigger in self.store.triggers():
            if trigger.status == "recorded":
                self._publish(trigger)
                trigger = self._move(trigger, "published", lease)
            if trigger.status == "published":
                trigger = self._submit(trigger, trigger.id, lease)
            if trigger.status == "submitted":
                self._follow_job(trigger, lease)

    def _publish(self, trigger: Trigger) -> Version:
        reason = dict(trigger.reason)
        release = self.registry.get("release", reason["release"])
        inputs = {"trigger": trigger.id, "kind": DRIFT, "window_end": trigger.window_end, "code_version": CODE_VERSION}
        parents = [release.digest, reason["baseline"]]
        return self.registry.publish(TRIGGER, release.name, inputs=inputs, parents=parents, facts=reason)

    def _submit(self, trigger: Trigger, submission_id: str, lease: Lease) -> Trigger:
        self.jobs.start(trigger.id, submission_id=submission_id)
        return self._move(trigger, "submitted", lease, job_id=submission_id)

    def _follow_job(self, trigger: Trigger, lease: Lease) -> None:
        submission_id = trigger.job_id or trigger.id
        outcome = self.jobs.outcome(submission_id)
        if outcome == "running":
            return
        if outcome in ENDINGS:
            self._move(trigger, ENDINGS[outcome], lease)
        elif (attempt := _attempt(submission_id)) < self.settings.max_job_attempts:
            self._submit(trigger, f"{trigger.id}.{attempt + 1}", lease)
        else:
            self._move(trigger, "failed", lease)

    def _move(self, trigger: Trigger, status: Status, lease: Lease, *, job_id: str | None = None) -> Trigger:
        self.store.move(trigger, status, lease=lease, job_id=job_id)
        moved = self.store.trigger(trigger.id)
        assert moved is not None
        return moved

    def _release(self) -> Version | None:
        try:
            found = self.registry.get("release", self.settings.release)
        except VersionNotFound:
            return None  # before the first promotion there is nothing to watch
        if void_if_swapped(found, registry=self.registry):
            logger.warning("%s has other models or another index than its router's guarantee: it is void", found.ref)
        return found

    def _baseline_of(self, release: Version) -> Baseline | None:
        found = find_baseline(release, registry=self.registry, settings=self.settings)
        if found is None:
            since = promoted_at(release, registry=self.registry)
            rows = self._requests(release.digest, since=since, enough=self.settings.reference_size)
            if len(rows) < self.settings.reference_size:
                return None
            found = publish_baseline(rows, release=release, registry=self.registry, settings=self.settings)
        if self._baseline is None or self._baseline.version.digest != found.digest:
            self._baseline = load_baseline(found, registry=self.registry)
        return self._baseline

    def _requests(self, release: str, *, since: str, enough: int) -> list[Row]:
        """Usable requests after a position: page by page until there are enough, or the log ends."""
        rows: list[Row] = []
        left_out: Counter[str] = Counter()
        until = self.clock() - timedelta(seconds=self.settings.settle_s)
        while True:
            page = self._page(release, since=since, until=until)
            fresh = [row for row in page if row_key(row) > since]
            usable, reasons = usable_rows(fresh)
            rows += usable
            left_out.update(reasons)
            if len(rows) >= enough or len(page) < READ_LIMIT or not fresh:
                self.left_out = dict(left_out)
                return rows
            since = row_key(fresh[-1])

    def _page(self, release: str, *, since: str, until: datetime) -> list[dict[str, Any]]:
        moment = datetime.fromisoformat(since.partition("/")[0]) if since else None
        folder = self.registry.workspace.requests_dir
        return read_requests(folder, release=release, since=moment, until=until, limit=READ_LIMIT)


def promoted_at(release: Version, *, registry: Registry) -> str:
    """Since when a release that was a canary before has all requests, and not those of some callers; empty for others.

    Its baseline is made of requests after that.
    """
    canaries = (leaf.index for leaf in registry.ledger.leaves(CANARY) if leaf.statement.subject == release.digest)
    placed = [leaf for leaf in registry.ledger.leaves(PROMOTION) if leaf.statement.subject == release.digest]
    was_canary = bool(placed) and next(canaries, placed[0].index) < placed[0].index
    return placed[0].statement.time if was_canary else ""


def monitor_status(registry: Registry, *, release: str | None = None) -> dict[str, Any]:
    """Windows with figures and alarms, and triggers, for reports; needs no running monitor.

    Args:
        release: digest of the release whose windows are wanted; default: all.
    """
    store = MonitorStore(registry.database)
    windows = store.windows(release)
    return {
        "windows": [window.to_json() for window in windows],
        "num_alarms": sum(window.alarm for window in windows),
        "triggers": [_trigger_json(trigger) for trigger in store.triggers()],
    }


def _trigger_json(trigger: Trigger) -> dict[str, Any]:
    fields = ("id", "created_at", "kind", "window_end", "status", "job_id")
    return {name: getattr(trigger, name) for name in fields} | {"reason": dict(trigger.reason)}


def _attempt(submission_id: str) -> int:
    return int(submission_id.partition(".")[2] or 1)
