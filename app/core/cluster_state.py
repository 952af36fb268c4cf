"""How a local cluster is set, recorded and told about: the data that `app.core.cluster` works with.

Guarantees: settings are checked when built; a record that cannot be read counts as none, since the processes themselves
tell whether a cluster is there. Not guaranteed: that a record is true; `app.core.cluster.status` compares it.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from app.core.errors import UsageError
from app.core.files import FileUnusable, read_yaml, replace_text
from app.core.processes import ProcessRecord
from app.core.settings import Settings, first_fault
from app.core.workspace import Workspace


class ClusterSettings(Settings):
    """How the local head is started (`cluster/local.yaml`)."""

    num_cpus: PositiveInt = 8
    """Logical CPUs that tasks and actors are counted against; more than there are, since most actors wait."""

    num_gpus: NonNegativeInt | None = None
    """GPUs that the head offers; None lets Ray count them."""

    object_store_memory_bytes: int = Field(default=512 * 1024**2, ge=80 * 1024**2)
    """Shared memory for objects; what does not fit is spilled to disk."""

    host: str = "127.0.0.1"
    """Address on which dashboard, job server and Serve listen."""

    dashboard_port: PositiveInt | None = Field(default=None, le=65535)
    """Port of the dashboard and job server; None chooses a free one."""

    serve_port: PositiveInt | None = Field(default=None, le=65535)
    """Port of Serve; None chooses a free one."""

    serve_request_timeout_s: PositiveFloat = 90
    """How long Serve lets a request take."""

    serve_keep_alive_timeout_s: PositiveInt = 60
    """How long Serve keeps an idle connection open."""

    first_port: int = Field(default=20000, ge=1024, le=65535)
    """Lower end of the range from which a block of free ports is chosen."""

    last_port: int = Field(default=32000, ge=1024, le=65535)
    """Upper end of it; below the range from which the kernel takes ports for outgoing connections."""

    start_timeout_s: PositiveFloat = 120.0
    """How long the head may take until it answers."""

    stop_grace_s: NonNegativeFloat = 4.0
    """Seconds between SIGTERM and SIGKILL when the cluster is ended."""

    environment: dict[str, str] = Field(
        default_factory=lambda: {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_USAGE_STATS_ENABLED": "0",
            "NML_DISABLE_USAGE_LOGGING": "1",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        }
    )
    """Variables that the head hands on to every job, worker and replica. Of Ray Train's two, the first is how often it
    looks whether the workers are done (2 s by itself, which every short run waits for), the second saves a process for
    each run that watches for nodes to be taken away: there is one node, and it is this machine.
    """

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Settings from a YAML file; None gives the defaults."""
        if path is None:
            return cls()
        try:
            return cls.model_validate(read_yaml(path))
        except FileUnusable as error:
            raise UsageError(f"the cluster settings are not valid, {error}: name another with --config") from error
        except ValidationError as error:
            raise UsageError(f"the cluster settings {path} are not valid: {first_fault(error)}") from error


class ClusterState(Settings):
    """A cluster that was started, as recorded in the workspace."""

    cluster_id: str
    """Derived from the workspace's path; carried in the environment of every process of the cluster."""

    address: str
    """Where Ray's control service listens, host:port."""

    host: str
    """Where dashboard and Serve listen."""

    ports: dict[str, int]
    """Port of each listener, and the range of the workers' ports."""

    temp_dir: Path
    """Ray's sessions, logs and sockets."""

    processes: tuple[ProcessRecord, ...]
    """The processes without which the head is no head."""

    num_cpus: int
    """Logical CPUs."""

    started_at: str
    """Time of the start, UTC."""

    @property
    def dashboard_url(self) -> str:
        """Dashboard, job server and Serve's REST interface."""
        return f"http://{self.host}:{self.ports['dashboard']}"

    @property
    def serve_url(self) -> str:
        """Where Serve answers requests."""
        return f"http://{self.host}:{self.ports['serve']}"


class ClusterStatus(Settings):
    """What `signalbox status` shows."""

    state: Literal["up", "crashed", "down"]
    """up: every essential process runs. crashed: one is missing, or processes run that no record knows."""

    cluster: ClusterState | None = None
    """What `up` recorded, unless the cluster is down."""

    num_processes: int = 0
    """Processes that belong to the cluster now."""

    missing: tuple[str, ...] = ()
    """Essential processes that have gone."""

    answers: bool = False
    """Whether the dashboard answers at this moment."""


def read_state(workspace: Workspace) -> ClusterState | None:
    """What `up` recorded; None when the record is missing or damaged."""
    try:
        return ClusterState.model_validate_json(workspace.cluster_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def write_state(workspace: Workspace, state: ClusterState) -> None:
    """Record a cluster, whole or not at all."""
    replace_text(workspace.cluster_path, state.model_dump_json(indent=2) + "\n")
