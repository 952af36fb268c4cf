"""Jobs and Serve applications of a running cluster, through the REST interface of Ray's dashboard.

Plain HTTP, so that a caller needs neither ``import ray`` nor an environment of its own, and may speak with two
clusters at once. Source: https://docs.ray.io/en/latest/cluster/running-applications/job-submission/api.html

Guarantees: every request has a time limit; ``submit`` with the same ``submission_id`` starts one job however often it
is called. Not guaranteed: that a job which was submitted runs at once, or that its log is kept after ``down``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from app.core.errors import SignalboxError

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
REQUEST_TIMEOUT_S = 30.0
PATIENCE_S = 60.0
"""How long a dashboard may not answer before a wait gives up."""


class ClusterUnreachable(SignalboxError):
    """The cluster's dashboard does not answer: see `signalbox status`, then `signalbox up`."""


class JobFailed(SignalboxError):
    """A job ended without success; the message carries its last line."""

    exit_code: int | None = None
    """Exit status of the job's driver, when Ray knows it."""


class JobTimeout(SignalboxError):
    """A job did not end in time; it still runs: wait again or stop it."""


@dataclass(frozen=True)
class JobResult:
    """How a job stands."""

    submission_id: str
    status: str
    """PENDING, RUNNING, or one of TERMINAL."""
    message: str
    exit_code: int | None
    log: str

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.status == "SUCCEEDED"


@dataclass(frozen=True)
class Dashboard:
    """Where a cluster's REST interface listens, and the token that opens it."""

    url: str
    token: str

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """An HTTP client; whatever keeps it from an answer is :class:`ClusterUnreachable`."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with httpx.Client(base_url=self.url, headers=headers, timeout=REQUEST_TIMEOUT_S, trust_env=False) as client:
                yield client
        except httpx.HTTPError as error:
            message = f"the dashboard at {self.url} does not answer ({type(error).__name__}): see `signalbox status`"
            raise ClusterUnreachable(message) from error

    def answers(self, *, timeout_s: float = 2.0) -> bool:
        """Whether it answers now, and takes the token."""
        try:
            with self.client() as client:
                return client.get("/api/version", timeout=timeout_s).status_code == httpx.codes.OK
        except ClusterUnreachable:
            return False

    def submit(self, entrypoint: str, *, submission_id: str | None, env: Mapping[str, str], num_cpus: float) -> str:
        """Start a job unless one of this id is known already; returns its id."""
        if submission_id and self.job(submission_id):
            return submission_id
        body: dict[str, Any] = {
            "entrypoint": entrypoint,
            "runtime_env": {"env_vars": dict(env)},
            "entrypoint_num_cpus": num_cpus,
        }
        body |= {"submission_id": submission_id} if submission_id else {}
        with self.client() as client:
            answer = client.post("/api/jobs/", json=body)
        if answer.is_success:
            return str(answer.json()["submission_id"])
        if submission_id and self.job(submission_id):
            return submission_id
        raise ClusterUnreachable(f"the job {entrypoint!r} was not taken: {_last_line(answer.text)}")

    def job(self, submission_id: str) -> dict[str, Any] | None:
        """What Ray knows of a job; None when it knows no such job."""
        with self.client() as client:
            answer = client.get(f"/api/jobs/{quote(submission_id, safe='')}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            answer.raise_for_status()
            return dict(answer.json())

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that were submitted, newest first."""
        with self.client() as client:
            answer = client.get("/api/jobs/")
            answer.raise_for_status()
            submitted = [job for job in answer.json() if job.get("submission_id")]
            return sorted(submitted, key=lambda job: -(job.get("start_time") or 0))

    def log(self, submission_id: str) -> str:
        """What the job's driver has written so far."""
        with self.client() as client:
            answer = client.get(f"/api/jobs/{quote(submission_id, safe='')}/logs")
            return str(answer.json().get("logs") or "") if answer.is_success else ""

    def stop(self, submission_id: str) -> None:
        """Ask a job to end; it gets SIGTERM, a little later SIGKILL."""
        with self.client() as client:
            client.post(f"/api/jobs/{quote(submission_id, safe='')}/stop").raise_for_status()

    def wait(
        self, submission_id: str, *, timeout_s: float, poll_s: float, on_log: Callable[[str], None] | None
    ) -> JobResult:
        """Wait until a job ends; raises JobFailed, JobTimeout, or ClusterUnreachable after PATIENCE_S of silence."""
        deadline_s, heard_s, shown = time.monotonic() + timeout_s, time.monotonic(), 0
        while time.monotonic() < deadline_s:
            try:
                job = self.job(submission_id)
                heard_s = time.monotonic()
            except ClusterUnreachable:
                if time.monotonic() - heard_s > PATIENCE_S:
                    raise
                time.sleep(poll_s)
                continue
            ended = job is not None and job["status"] in TERMINAL
            if on_log and len(text := self.log(submission_id)) > shown:
                on_log(text[shown:])
                shown = len(text)
            if job is None:
                raise JobFailed(f"there is no job {submission_id!r}: submit it first")
            if ended:
                return _concluded(job, self.log(submission_id))
            time.sleep(poll_s)
        raise JobTimeout(
            f"job {submission_id} did not end within {timeout_s:.0f} s: see `ray job logs {submission_id}`"
        )

    def serve_status(self) -> dict[str, Any]:
        """The state of Serve as its REST interface tells it: proxies, applications, deployments."""
        with self.client() as client:
            answer = client.get("/api/serve/applications/")
            answer.raise_for_status()
            return dict(answer.json())

    def put_serve(self, config: Mapping[str, Any]) -> None:
        """What `serve deploy` does: make ``config`` the goal state of Serve."""
        with self.client() as client:
            answer = client.put("/api/serve/applications/", json=dict(config), timeout=2 * REQUEST_TIMEOUT_S)
        if not answer.is_success:
            raise ClusterUnreachable(f"Serve refused its configuration: {_last_line(answer.text)}")

    def stop_serve(self, *, timeout_s: float) -> None:
        """Shut Serve down, so that replicas can write out what they hold."""
        with self.client() as client:
            client.delete("/api/serve/applications/", timeout=timeout_s)


def _concluded(job: Mapping[str, Any], log: str) -> JobResult:
    result = JobResult(
        submission_id=job["submission_id"],
        status=job["status"],
        message=job.get("message") or "",
        exit_code=job.get("driver_exit_code"),
        log=log,
    )
    if result.succeeded:
        return result
    ending = "was stopped" if result.status == "STOPPED" else f"failed with exit status {result.exit_code}"
    failure = JobFailed(f"job {result.submission_id} {ending}: {_last_line(log) or result.message}")
    failure.exit_code = result.exit_code
    raise failure


def _last_line(text: str) -> str:
    """The last line that says something; Ray's own announcement may come after a job's first words."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Running entrypoint")]
    return lines[-1] if lines else ""
