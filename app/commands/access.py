"""`signalbox access grant | list | revoke`: which API keys see chunks with access labels."""

import json
from typing import Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

app = group("access", "API keys and the access labels that they hold; without a key, public chunks alone are seen.")


@app.command()
def grant(
    name: Annotated[str, typer.Argument(help="Name of the key's holder: a person, a service, a team.")],
    label: Annotated[list[str], typer.Option(help="An access label that the key holds; give it again for more.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Make an API key and print it, once; it counts from the next request on. The ledger keeps its digest."""
    from app.registry.versions import open_registry
    from app.serving.access import add_grant

    typer.echo(add_grant(open_registry(Workspace.find(workspace)), name, label))


@app.command("list")
def list_(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the keys' holders with their labels."""
    from app.ledger.access_book import read_grants

    found = read_grants(Workspace.existing(workspace).access_path).values()
    if as_json:
        typer.echo(json.dumps([{"name": each.name, "labels": list(each.labels)} for each in found], indent=2))
        return
    for each in found:
        typer.echo(f"{each.name:<28} {', '.join(each.labels)}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key's holder.")], workspace: WorkspaceOption = None
) -> None:
    """Take a key's labels away, from the next request on."""
    from app.registry.versions import open_registry
    from app.serving.access import remove_grant

    remove_grant(open_registry(Workspace.existing(workspace)), name)
    typer.echo(f"the key of {name} sees public chunks alone from now on")
