from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.clock import rfc3339
from app.governance.guarantees import standing_of, state_guarantee
from app.ledger.log import VOID, Leaf, Statement
from app.monitoring import monitor as monitor_module
from app.monitoring.lease import LeaseLost, take
from app.monitoring.monitor import LEASE, Monitor, Outcome, monitor_status, promoted_at
from app.monitoring.settings import MonitorSettings
from app.registry.versions import Registry, Version
from tests.monitoring.conftest import START, Rows, make_rows

Log = Callable[[Rows], Path]


class FakeJobs:
    """Remembers what was submitted; outcomes are set by the test."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.outcomes: dict[str, Outcome] = {}
        self.breaks_before_start = False

    def start(self, trigger_id: str, *, submission_id: str) -> None:
        if self.breaks_before_start:
            raise ConnectionError("the cluster is away")
        if submission_id not in self.outcomes:
            self.started.append((trigger_id, submission_id))
            self.outcomes[submission_id] = "running"

    def outcome(self, submission_id: str) -> Outcome | None:
        return self.outcomes.get(submission_id)


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def monitor(registry: Registry, settings: MonitorSettings, release: Version, jobs: FakeJobs) -> Monitor:
    return make_monitor(registry, settings, release, jobs, holder="a")


def make_monitor(registry: Registry, settings: MonitorSettings, release: Version, jobs: Any, *, holder: str) -> Monitor:
    watched = settings.model_copy(update={"release": release.digest})
    return Monitor(
        registry=registry, settings=watched, jobs=jobs, holder=holder, clock=lambda: START + timedelta(days=1)
    )


def write_story(log: Log, release: Version, *, num_shifted: int) -> None:
    """120 requests for the baseline, 80 alike, then some of a new subject."""
    log(make_rows(200, seed=1, release=release.digest))
    if num_shifted:
        log(make_rows(num_shifted, seed=2, shifted=True, first=200, release=release.digest))


def leaves(registry: Registry, kind: str) -> list[Leaf]:
    return list(registry.ledger.leaves(kind))


@pytest.mark.parametrize(("num_shifted", "why"), [(0, ""), (80, "drift in ")])
def test_drift_voids_the_routers_guarantee_at_once(
    registry: Registry, settings: MonitorSettings, log: Log, jobs: FakeJobs, num_shifted: int, why: str
) -> None:
    router = registry.publish("router", "r", inputs={}, facts={"bound_to": {"small": "sha256:s"}})
    state_guarantee(router, {"guarantee": {}, "bound_to": {}}, registry=registry)
    release = registry.publish("release", "a", inputs={}, facts={"router": router.digest, "small": "sha256:s"})
    write_story(log, release, num_shifted=num_shifted)
    watching = make_monitor(registry, settings, release, jobs, holder="a")
    for _ in range(2):
        watching.tick()
    said = standing_of(registry, router.digest).objection
    assert said.startswith(why)
    assert bool(said) is bool(why)
    assert len(leaves(registry, VOID)) == bool(why)


def test_a_base_swap_voids_the_routers_guarantee(registry: Registry, settings: MonitorSettings, jobs: FakeJobs) -> None:
    router = registry.publish("router", "r", inputs={}, facts={"bound_to": {"small": "sha256:s"}})
    state_guarantee(router, {"guarantee": {}, "bound_to": {}}, registry=registry)
    release = registry.publish("release", "a", inputs={}, facts={"router": router.digest, "small": "sha256:other"})
    for _ in range(2):
        make_monitor(registry, settings, release, jobs, holder="a").tick()
    assert standing_of(registry, router.digest).objection == "release a@1 has another small than it was made with"


def test_nothing_happens_before_the_first_release_and_the_first_requests(
    registry: Registry, settings: MonitorSettings, monitor: Monitor, log: Log, release: Version, jobs: FakeJobs
) -> None:
    unreleased = Monitor(registry=registry, settings=settings, jobs=jobs, holder="a")
    assert unreleased.tick()
    unreleased.close()
    log(make_rows(119, release=release.digest))
    assert monitor.tick()
    assert registry.versions("baseline") == []
    assert monitor_status(registry)["windows"] == []


def test_what_a_canary_was_asked_is_no_baseline_of_the_release(
    registry: Registry, monitor: Monitor, log: Log, release: Version
) -> None:
    """200 requests of other subjects, of callers who were named, before it was promoted."""
    log(make_rows(200, seed=2, shifted=True, release=release.digest))
    for kind, seconds in (("canary", 0), ("promotion", 200)):
        time = rfc3339(START + timedelta(seconds=seconds))
        registry.ledger.append([Statement(kind, release.digest, "release/signalbox", time=time)])
    monitor.tick()
    assert registry.versions("baseline") == []
    log(make_rows(160, seed=1, first=200, release=release.digest))
    monitor.tick()
    (window,) = monitor_status(registry)["windows"]
    assert not window["alarm"]
    assert window["end"].endswith("r000359")
    assert promoted_at(registry.publish("release", "other", inputs={}), registry=registry) == ""


def test_the_alarm_comes_with_the_shift_and_not_before(
    registry: Registry, monitor: Monitor, log: Log, release: Version, jobs: FakeJobs
) -> None:
    write_story(log, release, num_shifted=100)
    assert monitor.tick()
    status = monitor_status(registry, release=release.digest)
    assert [window["alarm"] for window in status["windows"]] == [False, False, True, True]
    assert [window["num_requests"] for window in status["windows"]] == [40] * 4
    (trigger,) = status["triggers"]
    assert trigger["status"] == "submitted"
    assert trigger["window_end"] == status["windows"][2]["end"]
    assert jobs.started == [(trigger["id"], trigger["id"])]
    (version,) = registry.versions("trigger")
    assert version.facts == status["windows"][2]
    assert version.parents == [release.digest, registry.versions("baseline")[0].digest]
    assert len(leaves(registry, "trigger")) == 1


def test_a_release_with_another_encoder_gets_a_baseline_of_its_own(
    registry: Registry, settings: MonitorSettings, monitor: Monitor, log: Log, release: Version, jobs: FakeJobs
) -> None:
    """Vectors of two encoders, here of two sizes, lie in one log and are never compared."""
    log(make_rows(160, release=release.digest))
    assert monitor.tick()
    monitor.close()
    tuned = registry.publish("release", "signalbox", inputs={"number": 2}, facts={})
    rows = make_rows(160, seed=1, first=500, release=tuned.digest)
    log([row | {"embedding": [*row["embedding"], *row["embedding"]]} for row in rows])
    assert make_monitor(registry, settings, tuned, jobs, holder="b").tick()
    assert [each.parents for each in registry.versions("baseline")] == [[release.digest], [tuned.digest]]
    windows = monitor_status(registry)["windows"]
    assert [(each["release"], each["alarm"]) for each in windows] == [(release.digest, False), (tuned.digest, False)]


def test_looking_again_does_nothing_again(
    registry: Registry, monitor: Monitor, log: Log, release: Version, jobs: FakeJobs
) -> None:
    write_story(log, release, num_shifted=40)
    monitor.tick()
    before = monitor_status(registry)
    for _ in range(3):
        monitor.tick()
    assert monitor_status(registry) == before
    assert len(jobs.started) == 1
    assert len(leaves(registry, "trigger")) == len(leaves(registry, "baseline")) == 1


def test_a_window_waits_until_it_is_whole(registry: Registry, monitor: Monitor, log: Log, release: Version) -> None:
    log(make_rows(199, seed=1, release=release.digest))
    monitor.tick()
    assert len(monitor_status(registry)["windows"]) == 1
    log(make_rows(1, seed=1, first=199, release=release.digest))
    monitor.tick()
    assert len(monitor_status(registry)["windows"]) == 2


@pytest.mark.parametrize("step", ["_publish", "_submit", "_move"])
def test_a_monitor_that_dies_between_two_steps_loses_nothing(
    step: str,
    registry: Registry,
    settings: MonitorSettings,
    monitor: Monitor,
    log: Log,
    release: Version,
    jobs: FakeJobs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    write_story(log, release, num_shifted=40)
    with monkeypatch.context() as broken:
        broken.setattr(Monitor, step, die)
        with pytest.raises(KeyboardInterrupt):
            monitor.tick()
    make_monitor(registry, settings, release, jobs, holder="a").tick()
    assert len(jobs.started) == len(leaves(registry, "trigger")) == 1
    assert [trigger["status"] for trigger in monitor_status(registry)["triggers"]] == ["submitted"]


def test_a_cluster_that_is_away_delays_the_job_only(
    registry: Registry, monitor: Monitor, log: Log, release: Version, jobs: FakeJobs
) -> None:
    write_story(log, release, num_shifted=40)
    jobs.breaks_before_start = True
    with pytest.raises(ConnectionError):
        monitor.tick()
    assert monitor_status(registry)["triggers"][0]["status"] == "published"
    jobs.breaks_before_start = False
    monitor.tick()
    assert len(jobs.started) == 1


@pytest.mark.parametrize(
    ("outcome", "status"), [("candidate", "candidate"), ("refused", "refused"), ("unusable", "failed")]
)
def test_a_job_that_ends_ends_its_trigger(
    outcome: Outcome,
    status: str,
    registry: Registry,
    monitor: Monitor,
    log: Log,
    release: Version,
    jobs: FakeJobs,
) -> None:
    write_story(log, release, num_shifted=40)
    monitor.tick()
    jobs.outcomes[jobs.started[0][1]] = outcome
    monitor.tick()
    assert [trigger["status"] for trigger in monitor_status(registry)["triggers"]] == [status]
    assert len(jobs.started) == 1


@pytest.mark.parametrize("lost", [False, True], ids=["broken", "unknown to the cluster"])
def test_a_job_without_a_verdict_is_submitted_again_a_few_times(
    lost: bool, registry: Registry, monitor: Monitor, log: Log, release: Version, jobs: FakeJobs
) -> None:
    write_story(log, release, num_shifted=40)
    for _ in range(6):
        monitor.tick()
        for _, submission_id in jobs.started:
            jobs.outcomes[submission_id] = "broken"
        if lost:
            jobs.outcomes.clear()
    (trigger,) = monitor_status(registry)["triggers"]
    assert [submission_id for _, submission_id in jobs.started] == [
        trigger["id"],
        f"{trigger['id']}.2",
        f"{trigger['id']}.3",
    ]
    assert trigger["status"] == "failed"


def test_an_alarm_starts_another_retraining_only_after_the_cool_down(
    registry: Registry, settings: MonitorSettings, log: Log, release: Version, jobs: FakeJobs
) -> None:
    patient = settings.model_copy(update={"cooldown_windows": 2})
    monitor = make_monitor(registry, patient, release, jobs, holder="a")
    write_story(log, release, num_shifted=40)
    monitor.tick()
    jobs.outcomes[jobs.started[0][1]] = "refused"
    monitor.tick()
    for number in range(3):
        log(make_rows(40, seed=3, shifted=True, first=240 + 40 * number, release=release.digest))
        monitor.tick()
    windows = monitor_status(registry)["windows"]
    assert [window["alarm"] for window in windows] == [False, False, True, True, True, True]
    ends = [trigger["window_end"] for trigger in monitor_status(registry)["triggers"]]
    assert ends == [windows[2]["end"], windows[5]["end"]]


def test_of_two_monitors_one_acts_until_the_other_takes_over(
    registry: Registry, settings: MonitorSettings, monitor: Monitor, log: Log, release: Version, jobs: FakeJobs
) -> None:
    write_story(log, release, num_shifted=40)
    second = make_monitor(registry, settings, release, jobs, holder="b")
    assert monitor.tick()
    assert not second.tick()
    monitor.close()
    assert second.tick()
    assert not monitor.tick()
    assert len(jobs.started) == 1


def test_a_monitor_that_is_replaced_while_it_measures_records_nothing(
    registry: Registry, monitor: Monitor, log: Log, release: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_story(log, release, num_shifted=40)
    measured = monitor_module.Baseline.measure

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        take(registry.database, LEASE, holder="a", duration_s=30)
        return measured(self, *args, **kwargs)

    monkeypatch.setattr(monitor_module.Baseline, "measure", slow)
    with pytest.raises(LeaseLost):
        monitor.tick()
    assert monitor_status(registry)["windows"] == []
    assert monitor_status(registry)["triggers"] == []


def test_requests_for_a_model_by_name_are_left_out_and_counted(
    monitor: Monitor, log: Log, release: Version, registry: Registry
) -> None:
    named = [{**row, "request_json": {"model": "large"}} for row in make_rows(10, first=0, release=release.digest)]
    log(named)
    log(make_rows(119, seed=1, first=10, release=release.digest))
    monitor.tick()
    assert registry.versions("baseline") == []
    assert monitor.left_out == {"asked for a model by name": 10}


def test_more_requests_by_name_than_a_page_holds_do_not_blind_it(
    registry: Registry, monitor: Monitor, log: Log, release: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "READ_LIMIT", 30)
    log(make_rows(120, seed=1, release=release.digest))
    named = make_rows(100, seed=3, first=120, release=release.digest)
    log([{**row, "request_json": {"model": "small"}} for row in named])
    log(make_rows(40, seed=1, first=220, release=release.digest))
    monitor.tick()
    (window,) = monitor_status(registry)["windows"]
    assert window["num_requests"] == 40
    assert window["start"].endswith("r000220")
    assert monitor.left_out == {"asked for a model by name": 100}
