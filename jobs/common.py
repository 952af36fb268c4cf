"""What every job begins and ends with.

Guarantees: a ``SignalboxError`` ends the job with its one sentence and its exit status; the cluster is that of the job,
else that of the workspace; OpenLineage events tell how it ran. Not guaranteed: a cluster; a job never starts one.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.core.cluster import connect
from app.core.errors import end_on_sigterm, exit_status
from app.core.workspace import DATABASE_VARIABLE, Workspace
from app.governance.openlineage import recorded
from app.ledger.key_sources import open_signer
from app.ledger.keys import Signer
from app.registry.versions import Registry, Version, VersionNotFound, open_registry
from app.settings import SignalboxSettings, load_settings

Config = Annotated[Path | None, typer.Option(help="Settings file (YAML); default: the local profile.")]
WorkspaceOption = Annotated[Path | None, typer.Option("--workspace", help="Workspace; default: $SIGNALBOX_WORKSPACE.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]

TrainerKey = Annotated[
    str | None, typer.Option("--key", help="Trainer's key that signs the training, by its name; default: none does.")
]


@dataclass(frozen=True)
class Job:
    """What a job works with."""

    workspace: Workspace
    settings: SignalboxSettings
    registry: Registry

    def signer(self, name: str | None) -> Signer | None:
        """The workspace's key of that name; None for none."""
        return open_signer(self.workspace.keys_dir, name) if name else None


@contextmanager
def job(workspace: Path | None, config: Path | None, *, begins: bool = False) -> Iterator[Job]:
    """Settings, workspace and registry of a job, connected to the cluster.

    Args:
        begins: whether the job may be a workspace's first and make it; another one is refused where there is none,
            unless the database is elsewhere and a pod's own folder is new.
    """
    with exit_status():
        settings = load_settings(config)
        makes = begins or DATABASE_VARIABLE in os.environ
        place = Workspace.find(workspace) if makes else Workspace.existing(workspace)
        with connect(place, log_to_driver=False):
            end_on_sigterm()  # Ray's own handler came in between
            registry = open_registry(place)
            name, source = _running()
            with recorded(registry, job=name, source=source):
                yield Job(place, settings, registry)


def _running() -> tuple[str, Path | None]:
    """Name and source file of the job that runs."""
    main = sys.modules["__main__"]
    spec, file = main.__spec__, getattr(main, "__file__", None)
    return (spec.name if spec else Path(file or "job").stem), (Path(file) if file else None)


def find_questions(ref: str, *, registry: Registry) -> Version:
    """Synthetic rows of that reference or digest, else the suite of it; VersionNotFound when there is neither."""
    try:
        return registry.get("synthetic", ref)
    except VersionNotFound:
        return registry.get("suite", ref)


def report(version: Version, *, as_json: bool = False, **more: Any) -> None:
    """Print what a job published: its reference, digest and figures, and ``more`` figures beside these."""
    if as_json:
        fields = {"kind": version.kind, "ref": version.ref, "digest": version.digest, "facts": version.facts}
        print(json.dumps({**fields, **more}))
        return
    print(f"{version.kind} {version.ref} ({version.short})")
    for name, figure in {**version.facts, **more}.items():
        print(f"  {name}: {json.dumps(figure)}")
