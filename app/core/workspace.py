"""The workspace: the one folder that holds everything a Signalbox installation keeps on this machine.

Guarantees: the folder exists; one that is made here is its owner's alone (mode 0700). Not guaranteed: the mode of a
folder that was there before, or anything about its content; the owners of the single paths see to that.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import UsageError

WORKSPACE_VARIABLE = "SIGNALBOX_WORKSPACE"
DEFAULT_FOLDER = ".signalbox"


class WorkspaceUnusable(UsageError):
    """The workspace folder cannot be made: name another one."""


@dataclass(frozen=True)
class Workspace:
    """Paths of one workspace; build it with :meth:`find`."""

    root: Path

    @classmethod
    def find(cls, path: str | Path | None = None) -> "Workspace":
        """The workspace at ``path``, else at ``$SIGNALBOX_WORKSPACE``, else ``./.signalbox``; made when missing."""
        root = Path(path or os.environ.get(WORKSPACE_VARIABLE) or DEFAULT_FOLDER).expanduser().resolve()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot use {root} as the workspace ({error.strerror}): name a writable folder with --workspace"
            raise WorkspaceUnusable(message) from error
        return cls(root)

    @property
    def store_uri(self) -> str:
        """Where artifacts lie, as a pyarrow filesystem URI."""
        return os.environ.get("SIGNALBOX_STORE_URI") or (self.root / "store").as_uri()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the metadata database; SQLite in the workspace unless the environment names another."""
        return os.environ.get("SIGNALBOX_DATABASE_URL") or f"sqlite:///{self.root / 'signalbox.db'}"

    @property
    def keys_dir(self) -> Path:
        """Private keys, mode 0600, with their public halves beside them."""
        return self.root / "keys"

    @property
    def requests_dir(self) -> Path:
        """The request log: Parquet parts."""
        return self.root / "requests"

    @property
    def logs_dir(self) -> Path:
        """Logs of the processes that ``up`` started."""
        return self.root / "logs"

    @property
    def runs_dir(self) -> Path:
        """Storage path of Ray Train runs: checkpoints of runs that are not finished yet."""
        return self.root / "runs"

    @property
    def token_path(self) -> Path:
        """The cluster's random token, mode 0600."""
        return self.root / "token"

    @property
    def cluster_path(self) -> Path:
        """What ``up`` recorded of the cluster: ports and process ids."""
        return self.root / "cluster.json"

    @property
    def demo_dir(self) -> Path:
        """What the demo writes: its corpus and its report."""
        return self.root / "demo"
