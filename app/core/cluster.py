"""The local Ray cluster of a workspace: start, stop, look, connect, submit.

Guarantees: ``up`` leaves a head that answers, or nothing; ``down`` ends exactly the processes of this workspace's head
and removes its temp folder; two workspaces never share a port, a token or a process. Dashboard, job server and Serve
listen on loopback. Not guaranteed: that nothing listens elsewhere. Ray's control service, raylet and workers listen on
every interface, and the token guards them; its metrics exporters do so without a token, and Serve on loopback asks for
none. On a network that you do not trust, close the ports from ``first_port`` to ``last_port`` from outside.
"""

import hashlib
import logging
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from app.core.clock import timestamp
from app.core.cluster_state import ClusterSettings, ClusterState, ClusterStatus, read_state, write_state
from app.core.errors import SignalboxError, UsageError
from app.core.jobs import ClusterUnreachable, Dashboard, JobFailed, JobResult, JobTimeout
from app.core.ports import PortInUse, choose_ports, starting
from app.core.processes import MARK, ProcessRecord, end, members
from app.core.workspace import WORKSPACE_VARIABLE, Workspace

__all__ = [
    "ClusterNotUp",
    "ClusterSettings",
    "ClusterStartFailed",
    "ClusterState",
    "ClusterStatus",
    "ClusterUnreachable",
    "JobFailed",
    "JobResult",
    "JobTimeout",
    "PortInUse",
    "connect",
    "dashboard",
    "down",
    "environment",
    "status",
    "submit",
    "up",
    "wait_for_job",
]

NAMESPACE = "signalbox"
_ESSENTIAL = {"gcs_server": "control service", "raylet": "raylet", "dashboard.py": "dashboard", "scripts.py": "head"}
"""Parts of command lines by which the processes are known without which a head is no head."""
_POLL_S = 0.25
_SERVE_STOP_TIMEOUT_S = 15.0
_INLINE_BYTES = 1 << 20
"""Results up to this size travel with the reply instead of through the object store (Ray: 100 KB)."""
_JOB_STOP_WAIT_S = "60"
"""Between SIGTERM and SIGKILL of `ray job stop`: time for a training to save where it stands."""


class ClusterNotUp(UsageError):
    """No cluster is up for this workspace: start one with `signalbox up`."""


class ConnectedElsewhere(UsageError):
    """This process is connected to another workspace's cluster: leave that connection first, or use a new process."""


class ClusterStartFailed(SignalboxError):
    """The head did not start; the message carries its last line and names its log."""


def up(workspace: Workspace, *, settings: ClusterSettings | None = None) -> ClusterState:
    """Start the workspace's cluster, after cleaning up what a crash left; one that is up is left alone.

    Raises:
        PortInUse: somebody listens on a port that the settings ask for.
        ClusterStartFailed: the head ended or did not answer in time; nothing of it is left.
    """
    settings = settings or ClusterSettings()
    with starting():
        before = status(workspace)
        if before.state == "up" and before.cluster:
            return before.cluster
        _end(workspace, grace_s=settings.stop_grace_s)
        ports = _choose_ports(workspace, settings)
        try:
            return _start(workspace, settings, ports)
        except (ClusterStartFailed, ClusterUnreachable, KeyboardInterrupt):
            _end(workspace, grace_s=settings.stop_grace_s)
            raise


def down(workspace: Workspace, *, grace_s: float = ClusterSettings().stop_grace_s) -> int:
    """End the workspace's cluster and remove its traces; returns the number of processes ended, 0 when it was down."""
    if os.environ.get(MARK) == cluster_id(workspace):
        raise UsageError("this process is part of the cluster that it should end: run `signalbox down` outside of it")
    with starting():
        now = status(workspace)
        if now.state == "up" and now.answers:
            _stop_serve(workspace)
        return _end(workspace, grace_s=grace_s)


def status(workspace: Workspace) -> ClusterStatus:
    """How the workspace's cluster stands, told by its processes and not by its promptness."""
    state = read_state(workspace)
    processes = members(cluster_id(workspace), state.processes if state else ())
    if state is None:
        return ClusterStatus(state="crashed" if processes else "down", num_processes=len(processes))
    missing = tuple(record.name for record in state.processes if record.find() is None)
    return ClusterStatus(
        state="crashed" if missing else "up",
        cluster=state,
        num_processes=len(processes),
        missing=missing,
        answers=not missing and dashboard(workspace).answers(),
    )


def environment(workspace: Workspace) -> dict[str, str]:
    """The variables with which `ray`, `serve` and the jobs find the workspace's cluster.

    `ray job` reads RAY_API_SERVER_ADDRESS, `serve deploy` RAY_DASHBOARD_ADDRESS, `ray status` and drivers RAY_ADDRESS.
    """
    state = _require_state(workspace)
    return {
        "RAY_API_SERVER_ADDRESS": state.dashboard_url,
        "RAY_DASHBOARD_ADDRESS": state.dashboard_url,
        "RAY_ADDRESS": state.address,
        **_auth(workspace),
        "RAY_USAGE_STATS_ENABLED": "0",
        "SIGNALBOX_URL": state.serve_url,
        WORKSPACE_VARIABLE: str(workspace.root),
        "PATH": _path(),
    }


@contextmanager
def connect(workspace: Workspace, *, log_to_driver: bool = True) -> Iterator[None]:
    """Connect this process to its cluster for the block: inside a job to the job's, else to the workspace's.

    A process that is connected already stays so, and is not disconnected by the inner block.

    Raises:
        ConnectedElsewhere: it is connected to another cluster than the one that is up for the workspace.
    """
    import ray

    if ray.is_initialized():
        _check_connected(workspace, ray.get_runtime_context().gcs_address)
        yield
        return
    with _variables({**_driver_variables(workspace), "RAY_BACKEND_LOG_LEVEL": "fatal"}):
        _reread_authentication()
        _quieten_data()
        with _same_sigterm():
            ray.init(
                address=os.environ["RAY_ADDRESS"],
                namespace=NAMESPACE,
                log_to_driver=log_to_driver,
                logging_level="WARNING",
            )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """Keep a handler of SIGTERM that was set over the block: Ray sets its own when it connects."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _check_connected(workspace: Workspace, address: str) -> None:
    state = read_state(workspace)
    if state and state.address != address:
        message = f"this process is connected to {address}, the workspace's cluster is at {state.address}"
        raise ConnectedElsewhere(f"{message}: leave that connection first, or use a new process")


def dashboard(workspace: Workspace) -> Dashboard:
    """The REST interface of the workspace's cluster; outside a local one, that of RAY_API_SERVER_ADDRESS."""
    state = read_state(workspace)
    if state:
        return Dashboard(url=state.dashboard_url, token=_read_token(workspace.token_path))
    if url := os.environ.get("RAY_API_SERVER_ADDRESS"):
        token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        token = os.environ.get("RAY_AUTH_TOKEN") or (_read_token(Path(token_path)) if token_path else "")
        return Dashboard(url=url, token=token)
    raise ClusterNotUp(f"no cluster is up for the workspace {workspace.root}: start one with `signalbox up`")


def submit(
    workspace: Workspace,
    entrypoint: str,
    *,
    submission_id: str | None = None,
    env: Mapping[str, str] | None = None,
    num_cpus: float = 0,
) -> str:
    """Start a shell command as a job and return its id; a known ``submission_id`` is not started again."""
    variables = {WORKSPACE_VARIABLE: str(workspace.root), **(env or {})}
    return dashboard(workspace).submit(entrypoint, submission_id=submission_id, env=variables, num_cpus=num_cpus)


def wait_for_job(
    workspace: Workspace,
    submission_id: str,
    *,
    timeout_s: float = 600.0,
    poll_s: float = 0.5,
    on_log: Callable[[str], None] | None = None,
) -> JobResult:
    """Wait until a job has succeeded; ``on_log`` gets its output as it comes.

    Raises:
        JobFailed: it failed or was stopped; the message carries the last line of its log.
        JobTimeout: it still runs after ``timeout_s``.
    """
    return dashboard(workspace).wait(submission_id, timeout_s=timeout_s, poll_s=poll_s, on_log=on_log)


def cluster_id(workspace: Workspace) -> str:
    """Short, and the same for the same folder, so that leftovers are found even when the record is lost."""
    return hashlib.sha256(str(workspace.root).encode()).hexdigest()[:10]


def _start(workspace: Workspace, settings: ClusterSettings, ports: dict[str, int]) -> ClusterState:
    _write_token(workspace.token_path)
    temp_dir = _make_temp_dir(workspace)
    workspace.logs_dir.mkdir(mode=0o700, exist_ok=True)
    log_path = workspace.logs_dir / "head.log"
    with log_path.open("wb") as log:
        head = subprocess.Popen(
            _command(settings, ports, temp_dir),
            cwd=workspace.root,
            env=_head_environment(workspace, settings, ports),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    board = Dashboard(
        url=f"http://{settings.host}:{ports['dashboard']}", token=workspace.token_path.read_text(encoding="utf-8")
    )
    _await(board.answers, head, log_path, settings.start_timeout_s)
    board.put_serve(_serve_options(settings, ports))
    _await(lambda: _proxy_is_healthy(board), head, log_path, settings.start_timeout_s)
    state = ClusterState(
        cluster_id=cluster_id(workspace),
        address=(temp_dir / "ray_current_cluster").read_text(encoding="utf-8").strip(),
        host=settings.host,
        ports=ports,
        temp_dir=temp_dir,
        processes=_essential(head),
        num_cpus=settings.num_cpus,
        started_at=timestamp(),
    )
    write_state(workspace, state)
    return state


def _command(settings: ClusterSettings, ports: Mapping[str, int], temp_dir: Path) -> list[str]:
    options: dict[str, Any] = {
        "port": ports["gcs"],
        "object-manager-port": ports["object_manager"],
        "node-manager-port": ports["node_manager"],
        "ray-client-server-port": ports["ray_client"],
        "dashboard-host": settings.host,
        "dashboard-port": ports["dashboard"],
        "dashboard-agent-listen-port": ports["agent_http"],
        "dashboard-agent-grpc-port": ports["agent_grpc"],
        "runtime-env-agent-port": ports["runtime_env_agent"],
        "metrics-export-port": ports["metrics"],
        "min-worker-port": ports["first_worker"],
        "max-worker-port": ports["last_worker"],
        "num-cpus": settings.num_cpus,
        "num-gpus": settings.num_gpus,
        "object-store-memory": settings.object_store_memory_bytes,
        "temp-dir": temp_dir,
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--no-monitor"]
    return [*ray, *given, "--disable-usage-stats", "--log-style=record", "--log-color=false"]


def _head_environment(workspace: Workspace, settings: ClusterSettings, ports: Mapping[str, int]) -> dict[str, str]:
    """The caller's environment without what would point Ray elsewhere, and with what jobs inherit."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **inherited,
        **settings.environment,
        **_auth(workspace),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_max_direct_call_object_size": str(_INLINE_BYTES),
        "RAY_JOB_STOP_WAIT_TIME_S": _JOB_STOP_WAIT_S,
        "RAY_API_SERVER_ADDRESS": f"http://{settings.host}:{ports['dashboard']}",
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        "SIGNALBOX_URL": f"http://{settings.host}:{ports['serve']}",
        WORKSPACE_VARIABLE: str(workspace.root),
        MARK: cluster_id(workspace),
        "PATH": _path(),
    }


def _await(ready: Callable[[], bool], head: "subprocess.Popen[bytes]", log_path: Path, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not ready():
        if head.poll() is not None:
            lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ClusterStartFailed(
                f"the head ended while starting ({lines[-1] if lines else 'no output'}): {log_path}"
            )
        if time.monotonic() > deadline_s:
            raise ClusterStartFailed(f"the head did not answer within {timeout_s:.0f} s: see {log_path}")
        time.sleep(_POLL_S)


def _serve_options(settings: ClusterSettings, ports: Mapping[str, int]) -> dict[str, Any]:
    """Serve keeps what it was started with, whatever a later config says."""
    http_options = {
        "host": settings.host,
        "port": ports["serve"],
        "request_timeout_s": settings.serve_request_timeout_s,
        "keep_alive_timeout_s": settings.serve_keep_alive_timeout_s,
    }
    return {"proxy_location": "HeadOnly", "http_options": http_options, "applications": []}


def _proxy_is_healthy(board: Dashboard) -> bool:
    proxies = board.serve_status().get("proxies") or {}
    return any(proxy.get("status") == "HEALTHY" for proxy in proxies.values())


def _essential(head: "subprocess.Popen[bytes]") -> tuple[ProcessRecord, ...]:
    """Records of the head and those of its children that it cannot be without."""
    parent = psutil.Process(head.pid)
    found = {}
    for process in [parent, *parent.children()]:
        line = shlex.join(process.cmdline()[:4]) if process.pid != head.pid else "scripts.py"
        for part, name in _ESSENTIAL.items():
            if part in line:
                found[name] = ProcessRecord.of(name, process)
                break
    if missing := sorted(set(_ESSENTIAL.values()) - set(found)):
        raise ClusterStartFailed(f"the head runs without its {', '.join(missing)}: run `signalbox down`, then `up`")
    return tuple(found.values())


def _end(workspace: Workspace, *, grace_s: float) -> int:
    state = read_state(workspace)
    num_ended = end(cluster_id(workspace), state.processes if state else (), grace_s=grace_s)
    shutil.rmtree(_temp_dir(workspace), ignore_errors=True)
    workspace.cluster_path.unlink(missing_ok=True)
    workspace.token_path.unlink(missing_ok=True)
    return num_ended


def _stop_serve(workspace: Workspace) -> None:
    """Let replicas write out what they hold; a Serve that does not listen is ended with the rest."""
    try:
        dashboard(workspace).stop_serve(timeout_s=_SERVE_STOP_TIMEOUT_S)
    except ClusterUnreachable as error:
        print(f"signalbox: Serve did not shut down by itself ({error})", file=sys.stderr)


def _choose_ports(workspace: Workspace, settings: ClusterSettings) -> dict[str, int]:
    return choose_ports(
        first=settings.first_port,
        last=settings.last_port,
        seed=int(cluster_id(workspace), 16),
        wanted={"dashboard": settings.dashboard_port, "serve": settings.serve_port},
    )


def _auth(workspace: Workspace) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(workspace.token_path)}


def _driver_variables(workspace: Workspace) -> dict[str, str | None]:
    """What a driver needs to connect; nothing where Ray has set it already (in a job, in a pod of KubeRay)."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    if "RAY_ADDRESS" in os.environ and read_state(workspace) is None:
        _check_shell(workspace)
        return {}
    return {**environment(workspace), "RAY_AUTH_TOKEN": None}


def _check_shell(workspace: Workspace) -> None:
    """Refuse a shell whose variables name a cluster that has ended, or that of another workspace."""
    named, token = os.environ.get(WORKSPACE_VARIABLE), os.environ.get("RAY_AUTH_TOKEN_PATH")
    again = 'then eval "$(signalbox env)" again'
    if named and Path(named).resolve() != workspace.root:
        message = f"this shell is set up for {named}, and no cluster is up for the workspace {workspace.root}"
        raise ConnectedElsewhere(f"{message}: start one with `signalbox up`, {again}")
    if token and not Path(token).is_file():
        message = f"the cluster that this shell is set up for has ended, its token {token} is gone"
        raise ClusterNotUp(f"{message}: start one with `signalbox up`, {again}")


def _quieten_data() -> None:
    """Ray Data's own log keeps its lines in the session's folder; on the terminal stand our progress and its errors."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


def _reread_authentication() -> None:
    """Ray reads mode and token once, when it is imported; what was set since needs this (as its own set-up does it)."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _path() -> str:
    """PATH with this Python's programs first, so that `ray` and `python` are the installed ones."""
    own = str(Path(sys.executable).parent)
    rest = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part != own]
    return os.pathsep.join([own, *rest])


def _temp_dir(workspace: Workspace) -> Path:
    """Short, since the sockets in it may have paths of 107 bytes only."""
    base = Path(tempfile.gettempdir())
    base = base if len(str(base)) <= len("/var/tmp") else Path("/tmp")
    return base / f"sb-{os.getuid()}-{cluster_id(workspace)}"


def _make_temp_dir(workspace: Workspace) -> Path:
    path = _temp_dir(workspace)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        raise ClusterStartFailed(f"{path} is there already and not ours to remove: remove it") from None
    return path


def _write_token(path: Path) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))


def _read_token(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _require_state(workspace: Workspace) -> ClusterState:
    state = read_state(workspace)
    if state is None or any(record.find() is None for record in state.processes):
        raise ClusterNotUp(f"no cluster is up for the workspace {workspace.root}: start one with `signalbox up`")
    return state


@contextmanager
def _variables(values: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables for the time of the block; None takes one away."""
    before = {name: os.environ.get(name) for name in values}
    _set_variables(values)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
