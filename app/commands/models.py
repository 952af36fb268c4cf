"""`signalbox models`: models that are registered without being trained here."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import JsonOption, NewWorkspaceOption, group
from app.core.errors import UsageError
from app.core.workspace import Workspace

app = group("models", "Models that are registered without being trained here.")


@app.callback()
def models() -> None:
    """Models that are registered without being trained here."""


@app.command()
def add_remote(
    name: Annotated[str, typer.Argument(help="Name of the model to publish to.")],
    description: Annotated[
        Path,
        typer.Argument(help="JSON or YAML: `servers` (`base_url`, `model`, `api_key_env`), `context_tokens`, ..."),
    ],
    workspace: NewWorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a model behind servers that speak OpenAI's protocol: vLLM, Ray Serve LLM, Azure OpenAI, OpenAI.

    The fields are those of `Remote` in app/inference/remote.py. Keys are named by their environment variables and stay
    there. The version's digest is that of the description: nothing proves which weights the servers run.
    """
    from pydantic import ValidationError

    from app.core.files import read_yaml
    from app.core.settings import first_fault
    from app.inference.models import add_remote as add
    from app.inference.remote import Remote
    from app.registry.versions import open_registry

    try:
        remote = Remote.model_validate(read_yaml(description))
    except ValidationError as error:
        raise UsageError(f"{description}: {first_fault(error)}") from error
    model = add(name, remote, registry=open_registry(Workspace.find(workspace)))
    servers = [each.base_url for each in remote.servers]
    whole = {"ref": model.ref, "digest": model.digest, "servers": servers}
    typer.echo(json.dumps(whole) if as_json else f"model {model.ref} behind {', '.join(servers)}, {model.digest}")
