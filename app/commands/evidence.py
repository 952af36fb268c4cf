"""`signalbox evidence`: everything about one release, in a file that stands alone."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

app = group("", "Evidence.")


@app.command()
def evidence(
    release: Annotated[str, typer.Argument(help="Release: name, name@number, name@production or digest.")],
    out: Annotated[Path, typer.Option(help="Zip file to write; one that is there is replaced.")],
    weights: Annotated[
        bool, typer.Option("--with-weights/--without-weights", help="The files of the models that it serves.")
    ] = True,
    data: Annotated[
        bool | None,
        typer.Option(
            "--with-data/--without-data",
            help="The files of its data: all, or none; by default those that judging its verdicts again reads.",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the evidence pack of a release: proofs, verdicts, approvals, model signatures, a report to read.

    The models that it serves are signed first, if they are not. Check a pack with `signalbox verify --pack FILE`.
    """
    from app.core.errors import UsageError
    from app.governance.pack.write import write_pack
    from app.registry.versions import open_registry

    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}: make it, or name another file with --out")
    registry = open_registry(Workspace.existing(workspace))
    pack = write_pack(registry.get("release", release), out, registry=registry, with_weights=weights, with_data=data)
    if as_json:
        typer.echo(json.dumps({**asdict(pack), "path": str(pack.path)}, indent=2))
        return
    typer.echo(f"{pack.release}: {pack.num_leaves} leaves, {pack.num_members} files, {pack.num_bytes} bytes in {out}")
    for version, reason in pack.left_out.items():
        typer.echo(f"  {version}: {reason}")
