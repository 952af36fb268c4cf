"""`signalbox keys new | list | revoke`: who may sign what."""

import json
from typing import Annotated

import typer

from app.commands.options import JsonOption, NewWorkspaceOption, WorkspaceOption, group
from app.core.workspace import Workspace

app = group("keys", "Keys on record: who may sign what. Every event is a leaf of the ledger.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the key; use a pseudonym, it stands in the ledger.")],
    role: Annotated[str, typer.Option(help="trainer, approver, reviewer, auditor or service.")],
    person: Annotated[
        str, typer.Option(help="Printed name of whom it belongs to; the ledger gets a pseudonym of it.")
    ] = "",
    source: Annotated[
        str, typer.Option(help="Where the private key is: env:VARIABLE or a pkcs11: URI; default: a new 0600 file.")
    ] = "",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase that encrypts the new private file.")
    ] = False,
    workspace: NewWorkspaceOption = None,
) -> None:
    """Make an Ed25519 key for a person and put it on record. A passphrase is given later in $SIGNALBOX_PASSPHRASE_NAME.

    A person who has a trainer's key approves nothing, under whatever other key.
    """
    from app.governance.keys import new_key
    from app.registry.versions import open_registry

    secret = typer.prompt("passphrase", hide_input=True, confirmation_prompt=True) if passphrase else ""
    registry = open_registry(Workspace.find(workspace))
    signer = new_key(registry, name, role=role, person=person, source=source, passphrase=secret)
    typer.echo(signer.public.vkey)


@app.command("list")
def list_(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the keys on record with role, person's pseudonym, and since or until when they count."""
    from app.governance.keys import list_keys
    from app.registry.versions import open_registry

    found = list_keys(open_registry(Workspace.existing(workspace)))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for each in found:
        until = f"revoked {each['revoked']}: {each['reason']}" if each["revoked"] else f"since {each['since']}"
        typer.echo(f"{each['key']:<28} {each['person'] or '-':<40} {until}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key, such as jane or approver/jane.")],
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")],
    actor: Annotated[str, typer.Option(help="Who revokes it, for the ledger; a pseudonym.")] = "service",
    workspace: WorkspaceOption = None,
) -> None:
    """Revoke a key for good: what it signed before holds, what it signs from now on is refused and named by verify."""
    from app.governance.keys import revoke_key
    from app.registry.versions import open_registry

    revoke_key(open_registry(Workspace.existing(workspace)), name, reason=reason, actor=actor)
    typer.echo(f"key {name} is revoked")
