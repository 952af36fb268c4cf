"""`signalbox promote | rollback | stop | resume`: what serves. Each is a signed leaf with a reason."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import WorkspaceOption, group
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.ledger.keys import Signer
    from app.registry.versions import Registry

ReasonOption = Annotated[str, typer.Option(help="Why, for the ledger.")]
NameOption = Annotated[str, typer.Option(help="Name of the release.")]
KeyOption = Annotated[str, typer.Option(help="Name of the key that signs the move; default: the log's own.")]
ServeOption = Annotated[bool, typer.Option(help="Deploy it here too; not where another cluster serves.")]
ConfigOption = Annotated[
    Path | None, typer.Option(help="Serve config to deploy; default: serve_configs/local.yaml of the checkout.")
]

app = group("", "Production.")


@app.command()
def promote(
    release: Annotated[str, typer.Argument(help="A release by name, name@number or digest.")],
    reason: ReasonOption,
    key: KeyOption = "",
    serve: ServeOption = True,
    serve_config: ConfigOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Put a release into production; refused without a verdict that is not red and the approvals that it needs."""
    from app.loop import put_into_production
    from app.serving.deploy import deploy

    registry, signer = open_for(workspace, key)
    chosen = registry.get("release", release)
    put_into_production(chosen, registry=registry, reason=reason, signer=signer)
    if config := config_of(serve, serve_config):
        deploy(workspace=registry.workspace, release_ref=chosen.digest, config_path=config)
    typer.echo(f"{chosen.ref} ({chosen.short}) is in production")


@app.command()
def rollback(
    reason: ReasonOption,
    release: Annotated[
        str | None, typer.Argument(help="An earlier release; default: the one that was in production before.")
    ] = None,
    name: NameOption = "assistant",
    key: KeyOption = "",
    serve: ServeOption = True,
    serve_config: ConfigOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Put an earlier release back into production and serve it; its own verdict and approvals stand behind it."""
    from app.governance.moves import previous_of
    from app.serving.production import in_production, roll_back

    registry, signer = open_for(workspace, key)
    now = None if release else in_production(name, registry=registry)
    to = previous_of(now, registry=registry) if now else registry.get("release", str(release))
    roll_back(to, registry=registry, reason=reason, signer=signer, config_path=config_of(serve, serve_config))
    typer.echo(f"{to.ref} ({to.short}) is in production again")


@app.command()
def stop(
    reason: ReasonOption,
    name: NameOption = "assistant",
    key: KeyOption = "",
    serve: ServeOption = True,
    serve_config: ConfigOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Emergency stop: take the release's models out of service at once; the extractive reader answers alone.

    It ends with `signalbox resume`, with a rollback, or with the promotion of another release.
    """
    from app.serving import production

    registry, signer = open_for(workspace, key)
    release = production.in_production(name, registry=registry)
    config = config_of(serve, serve_config)
    production.stop(release, registry=registry, reason=reason, signer=signer, config_path=config)
    typer.echo(f"{release.ref} is stopped: the extractive reader answers alone")


@app.command()
def resume(
    reason: ReasonOption,
    name: NameOption = "assistant",
    key: KeyOption = "",
    serve: ServeOption = True,
    serve_config: ConfigOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """End a stop: the release that was stopped serves with its models again."""
    from app.serving import production

    registry, signer = open_for(workspace, key)
    release = production.in_production(name, registry=registry)
    config = config_of(serve, serve_config)
    production.resume(release, registry=registry, reason=reason, signer=signer, config_path=config)
    typer.echo(f"{release.ref} serves with its models again")


def open_for(workspace: Path | None, key: str) -> "tuple[Registry, Signer | None]":
    """The workspace's registry, and the key of that name which signs the move; None for the log's own."""
    from app.ledger.key_sources import open_signer
    from app.registry.versions import open_registry

    registry = open_registry(Workspace.existing(workspace))
    return registry, open_signer(registry.workspace.keys_dir, key) if key else None


def config_of(serve: bool, path: Path | None) -> Path | None:
    """The Serve config that a move deploys; None where it deploys nothing."""
    from app.serving.deploy import LOCAL_CONFIG

    return (path or LOCAL_CONFIG) if serve else None
