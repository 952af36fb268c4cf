"""The workspace: the one folder that holds everything a Signalbox installation keeps on this machine.

Guarantees: the folder exists; one that ``find`` makes is its owner's alone (mode 0700), and ``existing`` makes none, so
that a mistyped path is a sentence. Not guaranteed: the mode of a folder that was there before, or anything about its
content; the owners of the single paths see to that.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import UsageError

WORKSPACE_VARIABLE = "SIGNALBOX_WORKSPACE"
DATABASE_VARIABLE = "SIGNALBOX_DATABASE_URL"
DEFAULT_FOLDER = ".signalbox"
DATABASE, KEYS = "signalbox.db", "keys"
BEGUN = (DATABASE, KEYS)
"""What a workspace holds from its first leaf on."""


class WorkspaceUnusable(UsageError):
    """The workspace folder cannot be made: name another one."""


class NoWorkspace(UsageError):
    """A folder holds no workspace, and this command makes none: correct --workspace, or begin one."""


@dataclass(frozen=True)
class Workspace:
    """Paths of one workspace; build it with :meth:`find`."""

    root: Path

    @classmethod
    def find(cls, path: str | Path | None = None) -> "Workspace":
        """The workspace at ``path``, else at ``$SIGNALBOX_WORKSPACE``, else ``./.signalbox``; made when missing."""
        root = _root(path)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot use {root} as the workspace ({error.strerror}): name a writable folder with --workspace"
            raise WorkspaceUnusable(message) from error
        return cls(root)

    @classmethod
    def existing(cls, path: str | Path | None = None, *, begun: bool = True) -> "Workspace":
        """The same workspace where there is one; nothing is made.

        Args:
            begun: whether something must have been published in it; a folder alone is enough otherwise.

        Raises:
            NoWorkspace: there is none.
        """
        root = _root(path)
        if not root.is_dir() or (begun and not cls(root).is_begun):
            message = f"there is no workspace at {root}: name another one with --workspace, or begin one here"
            raise NoWorkspace(f"{message} (`signalbox up`, `keys new` and `suite commit` make it)")
        return cls(root)

    @property
    def is_begun(self) -> bool:
        """Whether something was published in it, or its database is elsewhere and may hold something."""
        return DATABASE_VARIABLE in os.environ or any((self.root / name).exists() for name in BEGUN)

    @property
    def store_uri(self) -> str:
        """Where artifacts lie, as a pyarrow filesystem URI."""
        return os.environ.get("SIGNALBOX_STORE_URI") or (self.root / "store").as_uri()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the metadata database; SQLite in the workspace unless the environment names another."""
        return os.environ.get(DATABASE_VARIABLE) or f"sqlite:///{self.root / DATABASE}"

    @property
    def keys_dir(self) -> Path:
        """Private keys, mode 0600, with their public halves beside them."""
        return self.root / KEYS

    @property
    def access_path(self) -> Path:
        """Which access labels each API key holds; digests of keys, never keys."""
        return self.root / "access.json"

    @property
    def requests_dir(self) -> Path:
        """The request log: Parquet parts."""
        return self.root / "requests"

    @property
    def batches_dir(self) -> Path:
        """Batches of requests that may wait: what was sent, and the answers."""
        return self.root / "batches"

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


def _root(path: str | Path | None) -> Path:
    return Path(path or os.environ.get(WORKSPACE_VARIABLE) or DEFAULT_FOLDER).expanduser().resolve()
