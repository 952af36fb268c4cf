"""The monitor as a detached, named actor: a loop that looks at the request log once a period.

Guarantees: one monitor acts for a workspace, whatever is running (the lease in the database sees to that); an actor
that is killed is restarted by Ray, and its constructor is the whole recovery; ``ensure_monitor`` may be called at any
time, from anywhere, by several at once. A newer code version or changed settings replace the actor, an older version
never does. Not guaranteed: that it outlives the cluster's head; call ``ensure_monitor`` after ``up``.
"""

import logging
import os
import shlex
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError
from sqlalchemy.exc import SQLAlchemyError

from app.core.cluster import NAMESPACE, dashboard, submit
from app.core.errors import SignalboxError
from app.core.workspace import Workspace
from app.monitoring.monitor import Monitor, Outcome, monitor_status
from app.monitoring.settings import MonitorSettings
from app.registry.versions import open_registry

logger = logging.getLogger(__name__)

NAME = "monitor"
CODE_VERSION = 1
"""To be raised with every change of the monitor's behaviour, so that the newer one takes over."""
ROOT = Path(__file__).resolve().parents[2]
REFUSED_STATUS, USAGE_STATUS = 3, 2
"""Exit statuses of ``jobs.retrain``: the gate was red; the plan cannot be carried out."""
RESTARTS_FOREVER = -1
MEMORY_BYTES = 1024**3
ENSURE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.2

Description = dict[str, Any]


class MonitorNotStarted(SignalboxError):
    """The monitor's actor did not answer in time: see its log on the dashboard, then run `jobs.ensure_monitor`."""


class ClusterJobs:
    """Retraining jobs on the workspace's cluster."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def start(self, trigger_id: str, *, submission_id: str) -> None:
        """Submit ``jobs.retrain`` for a trigger, once for each submission id."""
        entrypoint = shlex.join(["python", "-m", "jobs.retrain", "--trigger", trigger_id])
        submit(self.workspace, entrypoint, submission_id=submission_id, env={"PYTHONPATH": str(ROOT)})

    def outcome(self, submission_id: str) -> Outcome | None:
        """How the job stands; None when the cluster does not know it."""
        job = dashboard(self.workspace).job(submission_id)
        return None if job is None else _outcome(str(job["status"]), job.get("driver_exit_code"))


class MonitorActor:
    """Runs the loop in a thread of its own, so that questions about it are answered at once."""

    def __init__(self, *, root: str, settings: MonitorSettings, code_version: int) -> None:
        self._workspace, self._settings, self._code_version = Workspace.find(root), settings, code_version
        self._holder = ray.get_runtime_context().get_actor_id() or f"pid-{os.getpid()}"
        self._stopping, self._stopped = threading.Event(), threading.Event()
        self._num_looks, self._error, self._left_out = 0, "", dict[str, int]()
        threading.Thread(target=self._run, name="monitor", daemon=True).start()

    def describe(self) -> Description:
        """Which monitor this is, and whether its last look went well."""
        about = _description(self._workspace, self._settings, self._code_version)
        state = {"num_looks": self._num_looks, "error": self._error, "left_out": self._left_out}
        return about | state | {"pid": os.getpid(), "actor_id": self._holder}

    def status(self) -> dict[str, Any]:
        """Windows with figures and alarms, triggers, and the monitor's own state."""
        return monitor_status(open_registry(self._workspace)) | {"monitor": self.describe()}

    def stop(self) -> None:
        """End the loop after the look under way, and give the lease back."""
        self._stopping.set()
        self._stopped.wait(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            monitor = self._monitor()
            while not self._stopping.is_set():
                self._look(monitor)
                self._stopping.wait(self._settings.period_s)
            monitor.close()
        finally:
            if not self._stopping.is_set():
                logger.critical("the monitor's loop broke, its actor restarts", exc_info=True)
                time.sleep(self._settings.period_s)
                os._exit(1)  # Ray restarts the actor; a live actor without its loop would watch nothing
            self._stopped.set()

    def _monitor(self) -> Monitor:
        jobs = ClusterJobs(self._workspace)
        return Monitor(registry=open_registry(self._workspace), settings=self._settings, jobs=jobs, holder=self._holder)

    def _look(self, monitor: Monitor) -> None:
        try:
            monitor.tick()
            self._error = ""
        except (SignalboxError, SQLAlchemyError, OSError, pa.ArrowException) as error:
            self._error = f"{type(error).__name__}: {error}"
            logger.warning("this look failed, the next one tries again: %s", self._error)
        self._num_looks, self._left_out = self._num_looks + 1, dict(monitor.left_out)


def ensure_monitor(workspace: Workspace, settings: MonitorSettings, *, code_version: int = CODE_VERSION) -> ActorHandle:
    """The workspace's monitor: the running one, or a new one where there is none or an outdated one. Needs ``connect``.

    Raises:
        MonitorNotStarted: it did not answer in time.
    """
    wanted = _description(workspace, settings, code_version)
    deadline_s = time.monotonic() + ENSURE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        actor = _get_or_create(workspace, settings, code_version)
        try:
            running = ray.get(actor.describe.remote(), timeout=deadline_s - time.monotonic())
            if not is_outdated(running, wanted):
                return actor
            ray.get(actor.stop.remote(), timeout=2 * STOP_TIMEOUT_S)
        except GetTimeoutError as error:
            raise MonitorNotStarted("the monitor does not answer: see its log on the dashboard") from error
        except RayActorError:
            time.sleep(POLL_S)  # it is being replaced or restarted
            continue
        ray.kill(actor, no_restart=True)
        time.sleep(POLL_S)
    raise MonitorNotStarted(f"no monitor answered within {ENSURE_TIMEOUT_S:.0f} s: see the dashboard")


def is_outdated(running: Description, wanted: Description) -> bool:
    """Whether a running monitor is to be replaced: by newer code, or by other settings of the same version."""
    if running["code_version"] != wanted["code_version"]:
        return bool(running["code_version"] < wanted["code_version"])
    return any(running[key] != wanted[key] for key in wanted)


def _get_or_create(workspace: Workspace, settings: MonitorSettings, code_version: int) -> ActorHandle:
    remote = ray.remote(MonitorActor).options(
        name=NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=RESTARTS_FOREVER,
        max_task_retries=RESTARTS_FOREVER,
        max_concurrency=4,
        num_cpus=0,
        memory=MEMORY_BYTES,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NML_DISABLE_USAGE_LOGGING": "1"}},
    )
    return remote.remote(root=str(workspace.root), settings=settings, code_version=code_version)


def _description(workspace: Workspace, settings: MonitorSettings, code_version: int) -> Description:
    dump = settings.model_dump(mode="json")
    return {"workspace": str(workspace.root), "settings": dump, "code_version": code_version}


def _outcome(status: str, exit_status: int | None) -> Outcome:
    if status in ("PENDING", "RUNNING"):
        return "running"
    if status in ("SUCCEEDED", "STOPPED"):
        return "candidate" if status == "SUCCEEDED" else "stopped"
    failures: dict[int | None, Outcome] = {REFUSED_STATUS: "refused", USAGE_STATUS: "unusable"}
    return failures.get(exit_status, "broken")
