"""Put an approved release into production, and let the cluster serve it."""

from pathlib import Path
from typing import Annotated

import typer

from app.loop import put_into_production
from app.serving.deploy import LOCAL_CONFIG, deploy
from jobs.common import Config, WorkspaceOption, job

app = typer.Typer(add_completion=False)


@app.command()
def main(
    release: Annotated[str, typer.Option(help="Release: name, name@number or digest.")] = "assistant",
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "promoted by hand",
    actor: Annotated[str, typer.Option(help="Who, for the ledger.")] = "operator",
    serve_config: Annotated[Path, typer.Option(help="Serve config to deploy.")] = LOCAL_CONFIG,
    serve: Annotated[bool, typer.Option(help="Deploy it, without a failed request.")] = True,
    config: Config = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Move the alias `production`. Refused without a verdict that is not red and the approvals its policy asks for."""
    with job(workspace, config) as here:
        version = here.registry.get("release", release)
        put_into_production(version, registry=here.registry, actor=actor, reason=reason)
        print(f"{version.ref} ({version.short}) is in production")
        if serve:
            deploy(workspace=here.workspace, release_ref=version.digest, config_path=serve_config)
            print(f"{version.ref} serves")


if __name__ == "__main__":
    app()
