"""`signalbox gate`: the checks there are, verdicts, and judging again what was judged."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.errors import UsageError
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.registry.versions import Registry, Version

app = group("gate", "Policies, verdicts, and their replay.")
RED_STATUS = 3
Verdict = Annotated[str, typer.Argument(help="Verdict: name, name@number or digest.")]


class BadLabel(UsageError):
    """An evaluation or another version is handed in as LABEL=REF: write it so."""


@app.command()
def checks(as_json: JsonOption = False) -> None:
    """List every check that a policy may name: what it measures, its unit, its source, and its fields."""
    from app.governance.policy import policy_schema

    known = policy_schema()["$defs"]
    if as_json:
        typer.echo(json.dumps(known, indent=2))
        return
    for kind, schema in known.items():
        typer.echo(f"{kind}: {' '.join(schema['description'].split())}")
        for name, field in schema["properties"].items():
            if name != "kind":
                default = f" (default {json.dumps(field['default'])})" if "default" in field else " (required)"
                typer.echo(f"    {name}{default}: {' '.join(field.get('description', '').split())}")


@app.command()
def schema() -> None:
    """Write the JSON schema of a policy file, for editors: `# yaml-language-server: $schema=policy.schema.json`."""
    from app.governance.policy import policy_schema

    typer.echo(json.dumps(policy_schema(), indent=2))


@app.command("list")
def list_verdicts(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the verdicts, oldest first: light, gate, what was judged, and by which policy."""
    verdicts = _registry(workspace).versions("verdict")
    if as_json:
        typer.echo(json.dumps([_brief(verdict) for verdict in verdicts], indent=2))
        return
    for brief in map(_brief, verdicts):
        typer.echo("{ref}  {light}  {gate} gate for {artifact}, by {policy}, {time}".format(**brief))


@app.command()
def show(verdict: Verdict, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show a verdict: each check with its light and its reason; with --json figures, thresholds and inputs too."""
    from app.governance.gate import summary

    version = _registry(workspace).get("verdict", verdict)
    whole = {**_brief(version), "inputs": version.manifest["inputs"], **version.facts}
    typer.echo(json.dumps(whole, indent=2) if as_json else "\n".join(summary(version)))


@app.command()
def replay(
    verdict: Verdict,
    pack: Annotated[
        Path | None, typer.Option(help="Judge from this evidence pack alone: no workspace is read.")
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge again from what a verdict recorded. Exit status 1 names each thing that did not come out the same."""
    from app.governance.gate import replay as judge_again
    from app.governance.pack.reader import open_pack

    with open_pack(pack) if pack else nullcontext(_registry(workspace)) as registry:
        version = registry.get("verdict", verdict)
        again = judge_again(version, registry=registry)
    if as_json:
        typer.echo(json.dumps({"verdict": version.digest, "light": version.facts.get("light"), **again.to_json()}))
    elif again.same:
        typer.echo(f"verdict {version.ref} comes out the same: {version.facts['light']}, {again.digest}")
    elif again.erased and not again.unexplained:
        typer.echo(f"verdict {version.ref} cannot be judged again, which is no sign of tampering")
        typer.echo("\n".join(f"  {line}" for line in again.erased))
    else:
        typer.echo(f"verdict {version.ref} does NOT come out the same")
        typer.echo("\n".join(f"  {line}" for line in again.differences))
    raise typer.Exit(0 if again.same else 1)


@app.command()
def judge(
    policy: Annotated[str, typer.Option(help="Policy: a file, or the name of one that comes with Signalbox.")],
    artifact: Annotated[str, typer.Option(help="What is judged: REF of a model, KIND:REF, or a digest.")],
    evaluation: Annotated[
        list[str] | None, typer.Option(help="LABEL=REF of an evaluation of it, such as target=small-mine; repeatable.")
    ] = None,
    production: Annotated[
        list[str] | None, typer.Option(help="LABEL=REF of production's evaluation on the same suite; repeatable.")
    ] = None,
    other: Annotated[
        list[str] | None, typer.Option("--with", help="LABEL=KIND:REF of what else a check needs; repeatable.")
    ] = None,
    at: Annotated[str, typer.Option(help="Moment of judging, RFC 3339; default: that of the newest evidence.")] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge an artifact by a policy, and publish the verdict. Exit status 3 when it is red."""
    from app.governance import gate
    from app.governance.evidence import Evidence
    from app.governance.policy import load_policy

    registry = _registry(workspace)
    evidence = Evidence.collect(
        _version(artifact, registry, kind="model"),
        registry=registry,
        candidate=_labelled(evaluation, registry, kind="evaluation"),
        production=_labelled(production, registry, kind="evaluation"),
        others=_labelled(other, registry, kind="verdict"),
        at=at,
    )
    verdict = gate.judge(load_policy(policy), evidence, registry=registry)
    whole = {**_brief(verdict), "digest": verdict.digest, "checks": verdict.facts["checks"]}
    typer.echo(
        json.dumps(whole, indent=2) if as_json else "\n".join([*gate.summary(verdict), f"verdict {verdict.ref}"])
    )
    raise typer.Exit(RED_STATUS if verdict.facts["light"] == "red" else 0)


def _registry(workspace: Any) -> "Registry":
    from app.registry.versions import open_registry

    return open_registry(Workspace.existing(workspace))


def _brief(verdict: "Version") -> dict[str, str]:
    facts = verdict.facts
    about = facts.get("artifact")
    artifact = f"{about.get('kind')} {about.get('ref')}" if isinstance(about, dict) else "not stated"
    named = {name: str(facts.get(name, "not stated")) for name in ("light", "gate", "policy")}
    return {"ref": verdict.ref, "artifact": artifact, **named, "time": verdict.created_at}


def _labelled(given: list[str] | None, registry: "Registry", *, kind: str) -> dict[str, "Version"]:
    found = {}
    for each in given or ():
        label, equals, ref = each.partition("=")
        if not (label and equals and ref):
            raise BadLabel(f"{each!r} names no label: write LABEL=REF, such as target=small-mine")
        found[label] = _version(ref, registry, kind=kind)
    return found


def _version(ref: str, registry: "Registry", *, kind: str) -> "Version":
    """A version by ``KIND:REF``, by its digest, or by a reference of the kind that is expected."""
    head, colon, tail = ref.partition(":")
    if head == "sha256":
        kinds = [leaf.statement.kind for leaf in registry.ledger.leaves(subject=ref)]
        return registry.get(kinds[0] if kinds else kind, ref)
    return registry.get(head, tail) if colon else registry.get(kind, ref)
