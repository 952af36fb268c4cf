"""The monitor on a cluster: killed, restarted, replaced."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.core.workspace import Workspace
from app.ledger.batches import write_part
from app.monitoring.settings import MonitorSettings
from app.registry.versions import open_registry
from tests.monitoring.conftest import Rows, make_rows

pytestmark = pytest.mark.cluster
RELEASE = "release-of-the-monitor-test"


def wait_until(condition: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"{condition} did not come true in {timeout_s} s"
        time.sleep(0.2)
    return value


@pytest.fixture
def watched(cluster: Any, cluster_workspace: Workspace) -> Iterator[MonitorSettings]:
    from app.monitoring.actor import NAME, NAMESPACE

    release = open_registry(cluster_workspace).publish("release", RELEASE, inputs={"number": 1}, facts={})
    yield MonitorSettings(
        reference_size=120,
        window_size=40,
        num_components=4,
        settle_s=0,
        period_s=0.5,
        lease_s=5,
        release=release.digest,
    )
    cluster.kill(cluster.get_actor(NAME, namespace=NAMESPACE), no_restart=True)


def write(workspace: Workspace, rows: Rows) -> None:
    workspace.requests_dir.mkdir(parents=True, exist_ok=True)
    write_part(workspace.requests_dir / f"monitor-test-{rows[0]['request_id']}.parquet", rows)


def test_a_killed_monitor_comes_back_and_nothing_is_lost_or_done_twice(
    cluster: Any, cluster_workspace: Workspace, watched: MonitorSettings
) -> None:
    from app.monitoring.actor import ensure_monitor

    def ask(name: str) -> dict[str, Any]:
        return cluster.get(getattr(actor, name).remote(), timeout=60)

    def windows() -> list[dict[str, Any]]:
        return [window for window in ask("status")["windows"] if window["release"] == watched.release]

    actor = ensure_monitor(cluster_workspace, watched)
    write(cluster_workspace, make_rows(160, seed=1, release=watched.release))
    wait_until(lambda: len(windows()) == 1)
    before = ask("describe")
    os.kill(before["pid"], signal.SIGKILL)
    write(cluster_workspace, make_rows(80, seed=2, first=160, shifted=True, release=watched.release))
    wait_until(lambda: len(windows()) == 3)
    after = ask("describe")
    assert after["pid"] != before["pid"]
    assert after["actor_id"] == before["actor_id"]
    assert [window["alarm"] for window in windows()] == [False, True, True]

    (trigger,) = wait_until(lambda: [t for t in ask("status")["triggers"] if t["status"] == "failed"], timeout_s=90)
    assert trigger["job_id"] == trigger["id"]  # one submission: a retraining without a plan is not tried again
    registry = open_registry(cluster_workspace)
    assert len([leaf for leaf in registry.ledger.leaves("trigger")]) == 1
    assert len(registry.versions("baseline", RELEASE)) == 1


def test_newer_code_or_other_settings_replace_the_monitor_and_older_code_does_not(
    cluster: Any, cluster_workspace: Workspace, watched: MonitorSettings
) -> None:
    from app.monitoring.actor import CODE_VERSION, ensure_monitor

    def ensured(settings: MonitorSettings, code_version: int) -> dict[str, Any]:
        actor = ensure_monitor(cluster_workspace, settings, code_version=code_version)
        return cluster.get(actor.describe.remote(), timeout=60)

    first = ensured(watched, CODE_VERSION)
    same = ensured(watched, CODE_VERSION)
    other = ensured(watched.model_copy(update={"min_signals": 3}), CODE_VERSION)
    newer = ensured(watched, CODE_VERSION + 1)
    older = ensured(watched, CODE_VERSION)
    assert same["actor_id"] == first["actor_id"]
    assert len({first["actor_id"], other["actor_id"], newer["actor_id"]}) == 3
    assert older["actor_id"] == newer["actor_id"]
    assert other["settings"]["min_signals"] == 3
