"""The local cluster: ports, record and environment without Ray; then up, down, crash, jobs with it."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from app.commands.cluster import LOCAL_SETTINGS
from app.core import cluster as clusters
from app.core.cluster import ClusterNotUp, ClusterSettings, JobFailed, PortInUse
from app.core.cluster_state import read_state
from app.core.errors import UsageError
from app.core.jobs import _last_line
from app.core.ports import BLOCK_SIZE, FIRST_WORKER, LISTENERS, choose_block, choose_ports, is_free
from app.core.processes import MARK, members
from app.core.workspace import Workspace


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_with_a_listener_is_not_free(listener):
    assert not is_free(listener)


def test_every_listener_has_a_port_below_the_workers():
    ports = choose_ports(first=21000, last=32000, seed=7, wanted={})
    assert len({ports[name] for name in LISTENERS}) == len(LISTENERS) <= FIRST_WORKER
    assert max(ports[name] for name in LISTENERS) < ports["first_worker"] < ports["last_worker"]


def test_a_block_in_use_is_passed_over():
    first = choose_block(first=21000, last=32000, seed=3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", first + BLOCK_SIZE - 1))
        server.listen()
        second = choose_block(first=21000, last=32000, seed=3)
    assert second != first
    assert (second - 21000) % BLOCK_SIZE == 0


@pytest.mark.parametrize("name", ["dashboard_port", "serve_port"])
def test_a_port_in_use_is_one_sentence_and_starts_nothing(workspace, listener, name):
    with pytest.raises(PortInUse, match=f"port {listener} is in use.*{name}"):
        clusters.up(workspace, settings=ClusterSettings(**{name: listener}))
    assert clusters.status(workspace).state == "down"
    assert not workspace.token_path.exists()


def test_no_block_left_is_said(listener):
    with pytest.raises(PortInUse, match="are free"):
        choose_block(first=listener, last=listener + BLOCK_SIZE - 1, seed=0)


def test_the_settings_file_of_the_checkout_holds_the_defaults():
    assert ClusterSettings.load(LOCAL_SETTINGS) == ClusterSettings()
    assert set(yaml.safe_load(LOCAL_SETTINGS.read_text(encoding="utf-8"))) <= set(ClusterSettings.model_fields)


def test_a_damaged_record_counts_as_none(workspace):
    workspace.cluster_path.write_text('{"cluster_id": ', encoding="utf-8")
    assert read_state(workspace) is None
    assert clusters.status(workspace).state == "down"


def test_two_workspaces_have_ids_of_their_own(tmp_path):
    one, two = Workspace.find(tmp_path / "one"), Workspace.find(tmp_path / "two")
    assert clusters.cluster_id(one) != clusters.cluster_id(two)
    assert clusters.cluster_id(one) == clusters.cluster_id(Workspace.find(tmp_path / "two" / ".." / "one"))


@pytest.mark.parametrize("ask", [clusters.environment, clusters.dashboard])
def test_without_a_cluster_the_answer_says_what_to_do(workspace, monkeypatch, ask):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ClusterNotUp, match="signalbox up"):
        ask(workspace)


def test_elsewhere_the_job_server_is_that_of_the_environment(workspace, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    board = clusters.dashboard(workspace)
    assert (board.url, board.token) == ("http://head:8265", "secret")


def test_a_cluster_is_not_ended_from_within(workspace, monkeypatch):
    monkeypatch.setenv(MARK, clusters.cluster_id(workspace))
    with pytest.raises(UsageError, match="outside"):
        clusters.down(workspace)


def test_variables_that_lead_elsewhere_do_not_reach_the_head(workspace, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "another:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    ports = choose_ports(first=21000, last=32000, seed=7, wanted={})
    variables = clusters._head_environment(workspace, ClusterSettings(), ports)
    assert "RAY_ADDRESS" not in variables
    assert "RAY_AUTH_TOKEN" not in variables
    assert variables["SIGNALBOX_WORKSPACE"] == str(workspace.root)
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


@pytest.mark.parametrize(
    ("text", "line"),
    [("", ""), ("a\nb\n\n", "b"), ("it broke\nRunning entrypoint for job 1: false\n", "it broke")],
)
def test_the_last_line_is_the_last_that_says_something(text, line):
    assert _last_line(text) == line


@pytest.mark.cluster
def test_the_cluster_asks_for_its_token_and_listens_on_loopback(cluster_workspace):
    now = clusters.status(cluster_workspace)
    assert (now.state, now.missing) == ("up", ())
    assert stat.S_IMODE(cluster_workspace.token_path.stat().st_mode) == 0o600
    assert httpx.get(f"{now.cluster.dashboard_url}/api/jobs/", timeout=10).status_code == 401
    assert httpx.get(f"{now.cluster.serve_url}/-/routes", timeout=10).status_code in (200, 503)
    listening = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    for name in ("dashboard", "serve"):
        assert f"0100007F:{now.cluster.ports[name]:04X} 00000000:0000 0A" in listening


@pytest.mark.cluster
def test_up_again_leaves_a_running_cluster_alone(cluster_workspace):
    before = clusters.status(cluster_workspace).cluster
    assert clusters.up(cluster_workspace) == before


@pytest.mark.cluster
def test_ray_job_submit_works_with_the_printed_environment(cluster_workspace, tmp_path):
    (tmp_path / "carried.txt").write_text("carried", encoding="utf-8")
    printed = subprocess.run(
        [sys.executable, "-m", "app.cli", "env", "--workspace", str(cluster_workspace.root)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    code = "import os; print(open('carried.txt').read(), os.environ['SIGNALBOX_WORKSPACE'])"
    script = f'{printed}\nray job submit --working-dir . -- python -c "{code}"'
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"carried {cluster_workspace.root}" in ended.stdout


@pytest.mark.cluster
def test_a_job_of_the_same_id_runs_once(cluster_workspace, tmp_path):
    traces = tmp_path / "traces"
    ids = {clusters.submit(cluster_workspace, f"echo ran >> {traces}", submission_id="once") for _ in range(3)}
    result = clusters.wait_for_job(cluster_workspace, "once", timeout_s=60)
    assert ids == {"once"}
    assert result.succeeded
    assert traces.read_text(encoding="utf-8") == "ran\n"


@pytest.mark.cluster
def test_a_failed_job_tells_its_last_line_and_exit_status(cluster_workspace):
    seen: list[str] = []
    failing = clusters.submit(cluster_workspace, "echo out of paper; exit 3", env={"A": "1"})
    with pytest.raises(JobFailed, match="exit status 3: out of paper") as failed:
        clusters.wait_for_job(cluster_workspace, failing, timeout_s=60, on_log=seen.append)
    assert failed.value.exit_code == 3
    assert "out of paper" in "".join(seen)


@pytest.mark.cluster
def test_a_job_connects_to_its_own_cluster(cluster_workspace):
    code = (
        "import ray; from app.core.cluster import connect; from app.core.workspace import Workspace\n"
        "with connect(Workspace.find()): c = ray.get_runtime_context(); print(c.gcs_address, c.namespace)"
    )
    submitted = clusters.submit(cluster_workspace, f"python -c '{code}'")
    result = clusters.wait_for_job(cluster_workspace, submitted, timeout_s=90)
    assert f"{clusters.status(cluster_workspace).cluster.address} signalbox" in result.log


@pytest.mark.cluster
@pytest.mark.chaos
def test_two_clusters_at_once_and_up_after_the_head_was_killed(cluster, cluster_workspace, tmp_path):
    other = Workspace.find(tmp_path / "other")
    mine = clusters.status(cluster_workspace).cluster
    try:
        first = clusters.up(other)
        with pytest.raises(clusters.ConnectedElsewhere, match="new process"), clusters.connect(other):
            pytest.fail("connected to another workspace's cluster")
        assert not set(first.ports.values()) & set(mine.ports.values())
        next(record for record in first.processes if record.name == "control service").find().kill()
        next(record for record in first.processes if record.name == "head").find().kill()
        assert clusters.status(other).state == "crashed"

        second = clusters.up(other)
        assert clusters.status(other).state == "up"
        assert {record.pid for record in first.processes}.isdisjoint(record.pid for record in second.processes)
        assert clusters.wait_for_job(other, clusters.submit(other, "true"), timeout_s=60).succeeded
    finally:
        clusters.down(other)
    assert members(clusters.cluster_id(other)) == []
    assert not second.temp_dir.exists()
    assert not other.token_path.exists()
    now = clusters.status(cluster_workspace)
    assert (now.state, now.cluster, now.answers) == ("up", mine, True)


def _double(number: int) -> int:
    return 2 * number


@pytest.mark.cluster
def test_a_connected_process_stays_connected_after_an_inner_block(cluster, cluster_workspace):
    with clusters.connect(cluster_workspace):
        assert cluster.is_initialized()
    assert cluster.is_initialized()
    remote = cluster.remote(num_cpus=0.1)(_double)
    assert cluster.get([remote.remote(number) for number in range(3)], timeout=60) == [0, 2, 4]
    assert "RAY_ADDRESS" in os.environ
