"""`signalbox lineage | production | impact`: where things came from, what served when, and what a document reached."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.governance.impact import Impact

MAX_SHOWN = 5

app = group("", "Lineage.")


@app.command()
def lineage(
    ref: Annotated[
        str,
        typer.Argument(help="A release or model by name, name@number or digest; KIND/NAME for others; a request id."),
    ],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    html: Annotated[Path | None, typer.Option(help="Write a picture of the graph to this HTML file.")] = None,
    onwards: Annotated[bool, typer.Option("--onwards", help="Show what was made from it, not what is behind it.")] = (
        False
    ),
) -> None:
    """Show everything behind a version or an answer, down to documents, as a tree, as JSON or as a picture."""
    from rich.console import Console

    from app.console.lineage import render, render_page
    from app.core.files import replace_text
    from app.governance.lineage import trace_any
    from app.registry.versions import open_registry

    tree = trace_any(open_registry(Workspace.existing(workspace)), ref, onwards=onwards)
    if html:
        title = f"{'Made from' if onwards else 'Lineage of'} {tree.kind} {tree.label}"
        replace_text(html, render_page(tree, title=title, onwards=onwards))
    if as_json:
        nodes, edges = tree.merged()
        graph = {"nodes": {key: node.facts() for key, node in nodes.items()}, "edges": edges}
        typer.echo(json.dumps({"tree": tree.to_dict(), **graph}, indent=2))
    elif html:
        typer.echo(f"wrote {html}")
    else:
        console = Console()
        console.print(render(tree), width=console.width if console.is_terminal else 1000)


@app.command()
def production(
    workspace: WorkspaceOption = None,
    at: Annotated[str | None, typer.Option(help="RFC 3339 time; default: now. Without a zone it is read as UTC.")] = (
        None
    ),
    name: Annotated[str, typer.Option(help="Name of the release.")] = "assistant",
    as_json: JsonOption = False,
    out: Annotated[Path | None, typer.Option(help="Write the proof to this file.")] = None,
    check: Annotated[Path | None, typer.Option(help="Check a proof that --out wrote; needs no workspace.")] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The log's public key for --check; default: the workspace's.")
    ] = None,
) -> None:
    """Tell what was in production at a moment, with a proof that a stranger can check."""
    from app.core.files import replace_text
    from app.governance.history import production_at
    from app.registry.versions import open_registry

    if check:
        _check(check, public_key or Workspace.existing(workspace).keys_dir / "service.pub", as_json=as_json)
        return
    registry = open_registry(Workspace.existing(workspace))
    proof = production_at(registry, _moment(at), name=name)
    if not proof["moves"]:
        registry.get("release", name)  # a name that nothing bears is a mistake: the nearest one is named
    if out:
        replace_text(out, json.dumps(proof, indent=2) + "\n")
    typer.echo(json.dumps(proof, indent=2) if as_json else "\n".join(_said(proof)))


@app.command()
def impact(
    document: Annotated[str, typer.Argument(help="A document's id (its digest) or its source path.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every chunk, synthetic row, dataset, index, model, release and answer that came from a document.

    At the end stands what must be made again once the document was changed or removed, what serves now first.
    """
    from app.governance.impact import find_impact
    from app.registry.versions import open_registry

    found = find_impact(open_registry(Workspace.existing(workspace)), document)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(_impact_lines(found)))


def _moment(at: str | None) -> Any:
    from app.core.clock import utc_now
    from app.governance.history import parse_moment

    if at is None:
        return utc_now()
    moment, zoned = parse_moment(at)
    if not zoned:
        typer.echo(f"{at} names no zone and is read as UTC", err=True)
    return moment


def _said(proof: dict[str, Any]) -> list[str]:
    named = f": {proof['ref'] or ''} {proof['digest']}" if proof["digest"] else ""
    lines = [f"{proof['name']} at {proof['at']}: {proof['state']}{named}"]
    if proof.get("canary"):
        lines.append(f"  beside it the canary {proof['canary_ref'] or ''} {proof['canary']}")
    for number, move in enumerate(proof["moves"]):
        leaf = json.loads(move["leaf"])
        mark = "in force" if number == proof["in_force"] else ""
        said = f"  leaf {move['index']:>6}  {leaf['time']}  {leaf['kind']:<10} {leaf['subject'][:19]}"
        reason = move["record"].get("facts", {}).get("reason", "")
        lines.append(f"{said}  by {leaf['actor']}: {reason}  {mark}".rstrip())
    return [*lines, proof["rests_on"]]


def _check(path: Path, key: Path, *, as_json: bool) -> None:
    from app.core.errors import UsageError
    from app.core.files import read_text
    from app.governance.history import check, rests_on
    from app.ledger.keys import load_public

    try:
        proof = json.loads(read_text(path))
        said = [f"{proof['name']} at {proof['at']}: {proof['state']}", *([proof["digest"]] if proof["digest"] else [])]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} holds no proof ({error}): name a file that `production --out` wrote") from error
    faults = check(proof, load_public(key))
    lines = [f"FAULT: {fault}" for fault in faults] or ["the proof holds", *said, rests_on(proof)]
    typer.echo(json.dumps({"ok": not faults, "faults": faults}, indent=2) if as_json else "\n".join(lines))
    raise typer.Exit(1 if faults else 0)


def _impact_lines(found: "Impact") -> list[str]:
    lines = [f"document {digest}  {', '.join(sources)}" for digest, sources in found.documents.items()]
    lines += [f"  {name:<22} {number:>9,}" for name, number in found.counts().items()]
    for kind in dict.fromkeys(touched.version.kind for touched in found.versions):
        shown = found.of_kind(kind)
        refs = [each.version.ref + (" (in production)" if each.in_production else "") for each in shown[:MAX_SHOWN]]
        more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
        lines.append(f"{kind}: {', '.join(refs)}{more}")
    lines.append("to be made again, in this order, once the document was changed or removed:")
    for number, step in enumerate(found.rebuild(), 1):
        refs = [each["ref"] + ("*" if each["in_production"] else "") for each in step["versions"]]
        lines.append(f"  {number}. {step['step']:<10} {', '.join(refs)}  (python -m {step['job']})")
    return [*lines, "* serves now, or stands behind what does; --json names every row"]
