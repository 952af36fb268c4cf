"""`signalbox approvals list | show | sign | reject | revoke`: what persons say about a release, here or over HTTP."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.errors import UsageError
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.governance.desk import Desk
    from app.ledger.keys import Signer
    from app.serving.approvals import RemoteDesk

ReleaseArgument = Annotated[str, typer.Argument(help="A release by name, name@number or digest.")]
KeyOption = Annotated[str, typer.Option("--key", help="Name of the key that signs; made by `signalbox keys new`.")]
AskKeyOption = Annotated[str, typer.Option("--key", help="Name of the key that asks; needed with --url.")]
NameOption = Annotated[str, typer.Option(help="Printed name of the person whom the key belongs to.")]
UrlOption = Annotated[str, typer.Option(help="Ask a gateway, such as http://127.0.0.1:8000; default: the workspace.")]

app = group("approvals", "Approvals of releases: signatures with name, time and meaning (21 CFR Part 11, 11.50).")


@app.command("list")
def list_(
    url: UrlOption = "", key: AskKeyOption = "", workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """List the releases, newest first, and whether each has the approvals that its policy asks for."""
    found = _desk(workspace, url, key)[0].list()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for each in found:
        typer.echo(f"{each['release']:<24} {_state(each):<14} {each['verdict']['light']:<6} {each['finding']}")


@app.command()
def show(
    release: ReleaseArgument,
    url: UrlOption = "",
    key: AskKeyOption = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what would be signed for a release: digests, the verdict's checks, and who has signed so far."""
    found = _desk(workspace, url, key)[0].show(release)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{found['release']}  {_state(found)}\n  log      {found['log']}")
    typer.echo(f"  artifact {found['artifact']['digest']}")
    typer.echo(f"  verdict  {found['verdict']['digest']} ({found['verdict']['ref']}, {found['verdict']['light']})")
    for line in found["checks"]:
        typer.echo(f"    {line}")
    typer.echo(f"  {found['finding']}")
    for each in found["decisions"]:
        typer.echo(
            f"  leaf {each['leaf']}: {each['meaning']!r} by {each['printed_name']}, {each['time']}, {each['digest']}"
        )


@app.command()
def sign(
    release: ReleaseArgument,
    key: KeyOption,
    printed_name: NameOption,
    meaning: Annotated[str, typer.Option(help="What the signature says; default: what the policy asks for.")] = "",
    valid_days: Annotated[float | None, typer.Option(help="Days after which it counts no more.", min=0)] = None,
    url: UrlOption = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Approve a release: sign artifact, verdict, name, time and meaning with a key that stays here."""
    from app.governance.approvals import draft_from, with_expiry

    desk, signer = _desk(workspace, url, key)
    about = desk.show(release)
    body = draft_from(about, signer=_known(signer), printed_name=printed_name, meaning=meaning or about["meaning"])
    _send(desk, with_expiry(body, valid_days), _known(signer))


@app.command()
def reject(
    release: ReleaseArgument,
    key: KeyOption,
    printed_name: NameOption,
    reason: Annotated[str, typer.Option(help="Why it must not go into production; it is kept with the signature.")],
    url: UrlOption = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Reject a release: no promotion until the same person takes it back with `approvals revoke`; none is outvoted."""
    from app.governance.approvals import REJECTED, draft_from
    from app.ledger.decisions import REJECTION

    desk, signer = _desk(workspace, url, key)
    body = draft_from(desk.show(release), signer=_known(signer), printed_name=printed_name, meaning=REJECTED)
    _send(desk, body | {"decision": REJECTION, "reason": reason}, _known(signer))


@app.command()
def revoke(
    release: ReleaseArgument,
    key: KeyOption,
    printed_name: NameOption,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the signature.")],
    decision: Annotated[
        str, typer.Option(help="Digest of the approval or rejection; default: all that this key signed about it.")
    ] = "",
    url: UrlOption = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Take back one's own approval or rejection of a release, before it is promoted."""
    from app.governance.approvals import WITHDRAWN, draft_from
    from app.ledger.decisions import WITHDRAWAL

    desk, signer = _desk(workspace, url, key)
    about, mine = desk.show(release), _known(signer)
    found = [each for each in about["decisions"] if decision in ("", each["digest"])]
    chosen = [each for each in found if decision or each["key"] == mine.public.vkey]
    if not chosen:
        raise UsageError(f"key {key} has signed nothing about {release} that stands: see `signalbox approvals show`")
    for each in chosen:
        body = draft_from(about, signer=mine, printed_name=printed_name, meaning=WITHDRAWN)
        _send(desk, body | {"decision": WITHDRAWAL, "of": each["digest"], "reason": reason}, mine)


def _desk(workspace: Any, url: str, key: str) -> "tuple[Desk | RemoteDesk, Signer | None]":
    """Where to ask, and the key to sign with when one was named."""
    from app.ledger.key_sources import open_signer

    place = Workspace.existing(workspace)
    signer = open_signer(place.keys_dir, key) if key else None
    if url:
        from app.serving.approvals import RemoteDesk

        return RemoteDesk(url, _known(signer)), signer
    from app.governance.desk import Desk
    from app.registry.versions import open_registry

    return Desk(open_registry(place)), signer


def _known(signer: "Signer | None") -> "Signer":
    if signer is None:
        raise UsageError("a gateway answers to keys on record only: name one with --key")
    return signer


def _send(desk: "Desk | RemoteDesk", body: dict[str, Any], signer: "Signer") -> None:
    from app.ledger.keys import sign_facts

    made = desk.record(sign_facts(body, signer))
    typer.echo(f"{made['kind']} {made['ref']} ({made['digest']}) is in the ledger")


def _state(about: dict[str, Any]) -> str:
    if about["in_production"]:
        return "stopped" if about["stopped"] else "in production"
    return "rejected" if about["rejected"] else "approved" if about["approved"] else "waiting"
