"""`signalbox router`: what routers there are, whether their guarantees stand, and what routing cost and was worth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.registry.versions import Registry, Version

RouterArgument = Annotated[
    str | None, typer.Argument(help="Router: name, name@number or digest; default: the one in production.")
]
ReleaseOption = Annotated[str, typer.Option(help="Release whose router is meant where none is named.")]
KeyOption = Annotated[str, typer.Option(help="Name of the key that signs it; default: the log's own.")]

app = group("router", "Routers: what they decide by, what they promise, what they were worth.")


@app.command()
def show(
    router: RouterArgument = None,
    release: ReleaseOption = "assistant@production",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Show a router: models with prices and limits, thresholds, figures on held-out rows, and whether it promises."""
    registry, chosen = _open(workspace, router, release)
    found = {"ref": chosen.ref, "digest": chosen.digest, "created_at": chosen.created_at, **chosen.facts}
    _write(found | {"standing": _standing(registry, chosen)}, as_json)


@app.command()
def guarantee(
    router: RouterArgument = None,
    release: ReleaseOption = "assistant@production",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Say what a router promises and whether that stands; exit status 1 where it does not."""
    registry, chosen = _open(workspace, router, release)
    standing = _standing(registry, chosen)
    promised = chosen.facts.get("guarantee")
    found = {"ref": chosen.ref, "digest": chosen.digest, "guarantee": promised, "standing": standing}
    _write(found | {"leaves": _leaves(registry, chosen)}, as_json)
    if promised is None or not standing["holds"]:
        raise typer.Exit(1)


@app.command()
def void(
    reason: Annotated[str, typer.Option(help="Why it no longer holds, for the ledger.")],
    router: RouterArgument = None,
    release: ReleaseOption = "assistant@production",
    key: KeyOption = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Void a router's guarantee: the gateway asks the largest model alone from now on; it cannot be taken back."""
    from app.governance.guarantees import void_guarantee
    from app.ledger.key_sources import open_signer

    registry, chosen = _open(workspace, router, release)
    signer = open_signer(registry.workspace.keys_dir, key) if key else None
    done = void_guarantee(chosen, reason, registry=registry, signer=signer)
    typer.echo(f"the guarantee of {chosen.ref} is void{'' if done else ' already'}")


@app.command()
def propose(
    router: Annotated[str, typer.Argument(help="Router: name, name@number or digest.")],
    name: Annotated[str, typer.Option(help="Name of the release.")] = "assistant",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Judge a router and, unless the verdict is red, propose production's release with it; exit status 3 where red."""
    from app.governance.gate import summary
    from app.loop_router import propose_router

    registry, chosen = _open(workspace, router, "")
    made = propose_router(name, chosen, registry=registry)
    release = {"ref": made.release.ref, "digest": made.release.digest} if made.release else None
    found = {"light": made.verdict.facts["light"], "verdict": made.verdict.ref, "release": release}
    if as_json:
        typer.echo(json.dumps(found | {"stopped": made.stopped}))
    else:
        said = f"release {release['ref']} is proposed" if release else made.stopped or "no release is proposed"
        typer.echo("\n".join([*summary(made.verdict), said]))
    if made.release is None:
        raise typer.Exit(3)


@app.command()
def audit(
    feedback: Annotated[
        Path | None,
        typer.Option(help="Further scores of answers, JSON lines of request_id and score (0 to 1); they count first."),
    ] = None,
    shadow: Annotated[
        list[str] | None, typer.Option(help="Outcomes of the log, name or digest; may be repeated.")
    ] = None,
    release: Annotated[str | None, typer.Option(help="Requests of this release only; default: of all.")] = None,
    days: Annotated[float | None, typer.Option(help="Only so many days back; default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML page to write; default: none.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Estimate what routing cost and kept against always one model, by workload and week, without bias.

    What answers were worth is what callers said by /v1/feedback, else a shadow sample.
    """
    from datetime import UTC, datetime, timedelta

    from app.console.routing import render_audit
    from app.routing.sample import KIND
    from app.serving import audit as auditing
    from app.serving.feedback import Scores
    from app.serving.outcomes import read_feedback

    registry = _registry(workspace)
    since = datetime.now(UTC) - timedelta(days=days) if days else None
    digest = registry.get("release", release).digest if release else None
    requests = auditing.read_requests(registry, since=since, release=digest)
    known = auditing.load_shadow([registry.get(KIND, each) for each in shadow or ()], registry)
    scores = Scores.read(registry, read_feedback(feedback) if feedback else {})
    rewards = auditing.rewards_of(requests, scores, known)
    report = auditing.audit(requests, rewards)
    if out:
        about = f"Requests of {release or 'all releases'}{f', the last {days:g} days' if days else ''}"
        out.write_text(render_audit(report, about=about), encoding="utf-8")
    _write(report, as_json)


def _registry(workspace: Path | None) -> "Registry":
    from app.registry.versions import open_registry

    return open_registry(Workspace.existing(workspace))


def _open(workspace: Path | None, router: str | None, release: str) -> "tuple[Registry, Version]":
    """The registry and a router: the one named, else a release's."""
    from app.registry.versions import VersionNotFound

    registry = _registry(workspace)
    if router:
        return registry, registry.get("router", router)
    found = registry.get("release", release)
    if not found.facts.get("router"):
        raise VersionNotFound(f"release {found.ref} has no router: name one")
    return registry, registry.get("router", found.facts["router"])


def _standing(registry: "Registry", router: "Version") -> dict[str, Any]:
    from app.governance.guarantees import standing_of

    if not router.facts.get("guarantee"):
        return {"holds": False, "because": "it promises nothing"}
    objection = standing_of(registry, router.digest).objection
    return {"holds": not objection, "because": objection}


def _leaves(registry: "Registry", router: "Version") -> list[dict[str, Any]]:
    from app.ledger.log import GUARANTEE, VOID

    leaves = registry.ledger.leaves(subject=router.digest)
    return [
        {"leaf": leaf.index, "kind": leaf.statement.kind, "time": leaf.statement.time, "actor": leaf.statement.actor}
        for leaf in leaves
        if leaf.statement.kind in (GUARANTEE, VOID)
    ]


def _write(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        typer.echo(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
