"""`signalbox verify`: what an auditor runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

app = group("", "Evidence.")


@app.command()
def verify(
    workspace: WorkspaceOption = None,
    pack: Annotated[Path | None, typer.Option(help="Check this evidence pack instead: no workspace is read.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="The log's public key, got by another way than what is checked.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute the ledger and every digest. Exit status 1 names each changed byte's file or ledger row."""
    if pack is not None:
        from app.governance.pack.verify import verify_pack

        report = verify_pack(pack, public_key=key)
    else:
        from app.ledger.verify import verify as recompute

        report = recompute(Workspace.find(workspace), public_key=key)
    counts = {"leaves": report.num_leaves, "artifacts": report.num_artifacts, "files": report.num_files}
    found = {"faults": [str(fault) for fault in report.faults], "notes": report.notes}
    typer.echo(json.dumps({"ok": report.ok, **counts, **found}, indent=2) if as_json else "\n".join(report.lines()))
    raise typer.Exit(report.exit_status)
