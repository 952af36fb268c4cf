from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.monitoring.drift import Figure
from app.monitoring.lease import Lease, LeaseLost, take
from app.monitoring.store import MonitorStore, Window, trigger_id
from app.registry.versions import Registry

FIGURES = (Figure("confidence", "confidence", "kolmogorov_smirnov", 0.5, 0.3),)
WINDOW = Window("sha256:r", "sha256:b", "2026-11-22T09:00:00Z/r1", "2026-11-22T09:01:00Z/r9", 50, True, FIGURES)


@pytest.fixture
def store(registry: Registry) -> MonitorStore:
    return MonitorStore(registry.database)


@pytest.fixture
def lease(registry: Registry) -> Lease:
    taken = take(registry.database, "monitor", holder="a", duration_s=30)
    assert taken
    return taken


def test_a_window_comes_back_as_it_was_recorded(store: MonitorStore, lease: Lease) -> None:
    assert store.record(WINDOW, lease=lease, with_trigger=True)
    assert store.windows() == [WINDOW]
    assert store.windows("sha256:other") == []
    assert store.last_end("sha256:r") == WINDOW.end
    assert store.last_end("sha256:other") is None
    assert [trigger.reason["signals"] for trigger in store.triggers()] == [["confidence"]]


def test_recording_a_window_again_changes_nothing(store: MonitorStore, lease: Lease) -> None:
    store.record(WINDOW, lease=lease, with_trigger=False)
    assert not store.record(replace(WINDOW, alarm=False, num_requests=9), lease=lease, with_trigger=True)
    assert store.windows() == [WINDOW]
    assert store.triggers() == []


def test_a_holder_that_was_replaced_records_nothing(store: MonitorStore, lease: Lease) -> None:
    store.record(WINDOW, lease=lease, with_trigger=True)
    (trigger,) = store.triggers()
    take(store.database, "monitor", holder="a", duration_s=30)
    with pytest.raises(LeaseLost):
        store.record(replace(WINDOW, end="2026-11-22T10:00:00Z/r99"), lease=lease, with_trigger=True)
    with pytest.raises(LeaseLost):
        store.move(trigger, "published", lease=lease)
    assert len(store.windows()) == 1
    assert store.triggers() == [trigger]


def test_of_racing_recorders_one_makes_the_trigger(store: MonitorStore, lease: Lease) -> None:
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda _: store.record(WINDOW, lease=lease, with_trigger=True), range(8)))
    assert wrote.count(True) == 1
    assert [trigger.id for trigger in store.triggers()] == [trigger_id(WINDOW)]


def test_a_trigger_moves_only_from_where_it_was_seen(store: MonitorStore, lease: Lease) -> None:
    store.record(WINDOW, lease=lease, with_trigger=True)
    (seen,) = store.triggers()
    assert store.move(seen, "submitted", lease=lease, job_id="job")
    assert not store.move(seen, "failed", lease=lease)
    assert [(trigger.status, trigger.job_id) for trigger in store.triggers()] == [("submitted", "job")]
    (now,) = store.triggers()
    assert store.move(now, "candidate", lease=lease)
    assert store.trigger(seen.id) == replace(now, status="candidate")
