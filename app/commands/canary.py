"""`signalbox canary`: a release beside production for a share of the requests, or for some callers; a signed leaf."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.moves import ConfigOption, KeyOption, NameOption, ServeOption, config_of, open_for
from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.errors import UsageError

if TYPE_CHECKING:
    from app.registry.versions import Registry

app = group("", "Canaries.")


@app.command()
def canary(
    release: Annotated[
        str | None, typer.Argument(help="The release to run beside production; none: how the canary compares.")
    ] = None,
    share: Annotated[float, typer.Option(help="Share of the requests that it answers, from 0 to 1.")] = 0.0,
    caller: Annotated[
        list[str] | None, typer.Option(help="Holder of an API key whose requests it answers all; again for more.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the canary that runs.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    html: Annotated[Path | None, typer.Option(help="Write the comparison with plots to this HTML file.")] = None,
    name: NameOption = "assistant",
    key: KeyOption = "",
    serve: ServeOption = True,
    serve_config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a release as a canary, end it, or compare it with production; refused where a promotion would be.

    It ends with --end, with a promotion, a rollback or a stop. Another share for the same release is another leaf.
    """
    registry, signer = open_for(workspace, key)
    if end == bool(release):
        if end or share or caller:
            raise UsageError("name a release to begin a canary with, or give --end alone")
        _compare(registry, name, html, as_json=as_json)
        return
    if html:
        raise UsageError("a page is of the comparison: give --html without a release and without --end")
    from app.governance.canary import end as end_canary
    from app.loop import run_beside_production
    from app.serving.access import digests_of

    if end:
        ended = end_canary(name, registry=registry, reason=reason, signer=signer)
        said = f"{ended.ref} is no canary any more: production answers alone"
    else:
        chosen, callers = registry.get("release", str(release)), digests_of(registry, caller or [])
        audience: dict[str, Any] = {"share": share, "callers": callers}
        run_beside_production(chosen, registry=registry, reason=reason, signer=signer, **audience)
        name, said = chosen.name, f"{chosen.ref} runs as a canary for {_whose(share, caller or [])}"
    _deploy(registry, name, config_of(serve, serve_config))
    typer.echo(json.dumps({"said": said}) if as_json else said)


def _whose(share: float, callers: list[str]) -> str:
    named = [f"{share:.3g} of the requests"] if share else []
    return " and ".join([*named, *([f"all of {', '.join(callers)}"] if callers else [])])


def _deploy(registry: "Registry", name: str, config: Path | None) -> None:
    from app.serving.deploy import deploy
    from app.serving.production import in_production

    if config is not None:
        release = in_production(name, registry=registry)
        deploy(workspace=registry.workspace, release_ref=release.digest, config_path=config)


def _compare(registry: "Registry", name: str, html: Path | None, *, as_json: bool) -> None:
    from app.serving.comparison import compare, lines

    found = compare(registry, name)
    if html:
        from app.console.canary import render_canary
        from app.core.clock import timestamp
        from app.core.files import replace_text

        replace_text(html, render_canary(found, at=timestamp()))
        typer.echo(f"wrote {html}", err=as_json)
        if not as_json:
            return
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))
