"""`signalbox verify`: what an auditor runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.errors import UsageError
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.ledger.faults import Report

app = group("", "Evidence.")


@app.command()
def verify(
    workspace: WorkspaceOption = None,
    pack: Annotated[Path | None, typer.Option(help="Check this evidence pack instead: no workspace is read.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="The log's public key, got by another way than what is checked.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Check this exported ledger instead: no workspace is read.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="An older checkpoint that you kept: the log must begin with its leaves.")
    ] = None,
    witness: Annotated[
        list[str] | None, typer.Option(help="Verifier key of a witness that must have cosigned; may be repeated.")
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option(help="Check the proof of an answer's receipt instead; see `receipt check` for more.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute the ledger and every digest. Exit status 1 names each changed byte's file or ledger row."""
    for named in (pack, key, ledger, checkpoint, receipt):
        if named is not None and not named.exists():
            raise UsageError(f"there is nothing at {named}: correct the path")
        if named is not None and named != ledger and not named.is_file():
            raise UsageError(f"{named} is a folder: name a file; an exported ledger is checked with --ledger")
    if receipt is not None:
        from app.commands import receipts

        receipts.check(receipt, key=key, header="", request=None, response=None, workspace=workspace, as_json=as_json)
    if pack is not None:
        from app.governance.pack.verify import verify_pack
        from app.ledger.witness import Witness

        if ledger or checkpoint:
            raise UsageError("a pack stands alone and shows no growth: leave out --ledger and --checkpoint")
        report = verify_pack(pack, public_key=key, witnesses=[Witness.parse(each) for each in witness or ()])
    else:
        report = _verify_ledger(workspace, ledger, key, checkpoint, witness or [])
    counts = {"leaves": report.num_leaves, "artifacts": report.num_artifacts, "files": report.num_files}
    found = {"faults": [str(fault) for fault in report.faults], "notes": report.notes}
    typer.echo(json.dumps({"ok": report.ok, **counts, **found}, indent=2) if as_json else "\n".join(report.lines()))
    raise typer.Exit(report.exit_status)


def _verify_ledger(
    workspace: Path | None, folder: Path | None, key: Path | None, checkpoint: Path | None, vkeys: list[str]
) -> "Report":
    """The workspace's ledger, or an exported one."""
    from app.ledger.auditor import Auditor
    from app.ledger.verify import verify as recompute
    from app.ledger.verify_export import verify_export
    from app.ledger.witness import Witness

    witnesses = tuple(Witness.parse(each) for each in vkeys)
    if folder is not None:
        return verify_export(folder, Auditor(key, checkpoint, witnesses))
    return recompute(Workspace.existing(workspace), public_key=key, checkpoint=checkpoint, witnesses=witnesses)
