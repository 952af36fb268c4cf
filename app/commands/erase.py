"""`signalbox erase`: remove a person's or a document's content and keep every proof."""

import json
from typing import Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.errors import UsageError
from app.core.workspace import Workspace

app = group("", "Erasure.")


@app.command()
def erase(
    subject: Annotated[
        list[str] | None,
        typer.Option(help="A name, address or user id; every row in which it occurs goes. May be given several times."),
    ] = None,
    document: Annotated[
        list[str] | None,
        typer.Option(help="A document's id or source; all that was made from it goes. May be given several times."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger for good, so leave the subject out.")] = "",
    by: Annotated[str, typer.Option(help="Who erases; it stands in the ledger for good.")] = "operator",
    models: Annotated[str, typer.Option(help="keep or delete models that were trained on what goes.")] = "keep",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go and change nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish erasures that were cut short.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a person's or document's content from store, indexes, request log and everything derived from it.

    Manifests, leaves and receipts stay, so that every older proof holds; an erasure leaf says what went.
    """
    from app.governance import erasure
    from app.registry.versions import open_registry

    registry = open_registry(Workspace.existing(workspace))
    if resume:
        done = erasure.resume(registry)
        typer.echo(json.dumps({"leaves": done}) if as_json else f"{len(done)} erasures finished {done or ''}".strip())
        return
    if not (subject or document) or not reason.strip() or models not in ("keep", "delete"):
        raise UsageError("erase needs --subject or --document, a --reason, and --models keep or delete")
    if not by.strip():
        raise UsageError("who erases stands in the ledger: name somebody with --by, or leave it out for 'operator'")
    result = erasure.erase(
        registry,
        subjects=subject or [],
        documents=document or [],
        reason=reason,
        actor=by,
        delete_models=models == "delete",
        dry_run=dry_run,
    )
    typer.echo(json.dumps(result.to_json(), indent=2) if as_json else "\n".join(erasure.lines(result)))
