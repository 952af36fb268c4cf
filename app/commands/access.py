"""`signalbox access grant | list | limit | limits | revoke`: API keys, the labels that they hold, their limits."""

import json
from typing import Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

app = group("access", "API keys, their access labels, limits and budgets; no key: public chunks alone.")


@app.command()
def grant(
    name: Annotated[str, typer.Argument(help="Name of the key's holder: a person, a service, a team.")],
    label: Annotated[
        list[str] | None, typer.Option(help="An access label that the key holds; give it again for more.")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Make an API key and print it, once; it counts from the next request on. The ledger keeps its digest."""
    from app.registry.versions import open_registry
    from app.serving.access import add_grant

    typer.echo(add_grant(open_registry(Workspace.find(workspace)), name, label or []))


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
def limit(
    name: Annotated[str, typer.Argument(help="Name of the key's holder; none with --tag and --anonymous.")] = "",
    tag: Annotated[str, typer.Option(help="Limit all requests with this tag instead.")] = "",
    anonymous: Annotated[bool, typer.Option(help="Limit all requests without a granted key instead.")] = False,
    requests_per_minute: Annotated[int | None, typer.Option(help="Requests of any kind.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Tokens, prompt and completion.")] = None,
    usd_per_day: Annotated[float | None, typer.Option(help="Dollars in a day (UTC).")] = None,
    usd_per_month: Annotated[float | None, typer.Option(help="Dollars in a calendar month (UTC).")] = None,
    usd_total: Annotated[float | None, typer.Option(help="Dollars, ever.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model that may be asked for; again for more.")] = None,
    key_tag: Annotated[list[str] | None, typer.Option(help="A tag that all the key's requests have.")] = None,
    role: Annotated[str | None, typer.Option(help="What may be called: all, answer or search.")] = None,
    cache: Annotated[str | None, typer.Option(help="Answer cache used unasked: off, exact or semantic.")] = None,
    clear: Annotated[bool, typer.Option(help="Take all limits away.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Set limits and budgets of a key, a tag, or of everybody without a key; what is not named stays as it is."""
    from app.registry.versions import open_registry
    from app.serving.rules import change_rule, clear_rule, subject_of

    registry = open_registry(Workspace.existing(workspace))
    subject = subject_of(registry, name=name, tag=tag, anonymous=anonymous)
    if clear:
        clear_rule(registry, subject)
        typer.echo(f"{subject} has no limits any more")
        return
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "usd_per_day": usd_per_day,
        "usd_per_month": usd_per_month,
        "usd_total": usd_total,
        "models": model,
        "tags": key_tag,
        "role": role,
        "cache": cache,
    }
    rule = change_rule(registry, subject, {key: value for key, value in given.items() if value is not None})
    typer.echo(f"{subject} {json.dumps(rule.model_dump(exclude_defaults=True))}")


@app.command()
def limits(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List all limits, with what is used or reserved of them in this minute, day and month."""
    from app.registry.versions import open_registry
    from app.serving.rules import report

    found = report(open_registry(Workspace.existing(workspace)))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for each in found:
        used, rule = each["used"], each["rule"].items()
        shown = [f"{key} {used[key]:g} of {value:g}" if key in used else f"{key} {value}" for key, value in rule]
        typer.echo(f"{each['name'] or each['subject']:<28} {', '.join(shown)}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key's holder.")], workspace: WorkspaceOption = None
) -> None:
    """Take a key's labels away, from the next request on."""
    from app.registry.versions import open_registry
    from app.serving.access import remove_grant

    remove_grant(open_registry(Workspace.existing(workspace)), name)
    typer.echo(f"the key of {name} sees public chunks alone from now on")
