"""Build the next release candidate, as the recorded plan says; it does not promote it.

Exit status: 0, a candidate awaits approval; 3, the gate is red; 2, the plan cannot be carried out; 1, a stage failed,
and the same command goes on where it ended.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.core.errors import UsageError, exit_status
from app.core.workspace import Workspace
from app.governance.gate import summary
from app.loop import Candidate, retrain
from app.monitoring.actor import REFUSED_STATUS
from app.monitoring.plan import RetrainPlan, load_plan, plan_path
from app.monitoring.store import MonitorStore
from app.registry.versions import Registry
from jobs.common import Config, Json, TrainerKey, WorkspaceOption, job

app = typer.Typer(add_completion=False)


class TriggerUnknown(UsageError):
    """There is no trigger of that id: see `jobs.ensure_monitor --status`, or leave --trigger out."""


@app.command()
def main(
    trigger: Annotated[
        str | None, typer.Option(help="Id of the trigger that asks for it; default: a person does.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Retraining plan; default: the workspace's.")] = None,
    key: TrainerKey = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Ingest, index, synthesise, train on from production, calibrate, evaluate, judge; print verdict and candidate."""
    with exit_status():
        chosen = load_plan(plan or plan_path(Workspace.existing(workspace)))
    with job(workspace, config or _config_of(chosen)) as here:
        actor = f"retrain {_known(trigger, here.registry)}"
        candidate = retrain(
            chosen, registry=here.registry, settings=here.settings, actor=actor, trigger=trigger,
            trainer=here.signer(key),
        )  # fmt: skip
    print(json.dumps(_as_json(candidate)) if as_json else "\n".join(_lines(candidate)))
    raise typer.Exit(0 if candidate.release else REFUSED_STATUS)


def _config_of(plan: RetrainPlan) -> Path | None:
    return Path(plan.config) if plan.config else None


def _known(trigger: str | None, registry: Registry) -> str:
    if trigger and MonitorStore(registry.database).trigger(trigger) is None:
        raise TriggerUnknown(f"there is no trigger {trigger!r}: see `jobs.ensure_monitor --status`")
    return trigger or "by hand"


def _as_json(candidate: Candidate) -> dict[str, str | None]:
    release = candidate.release
    versions = {"model": candidate.model, "router": candidate.router, "verdict": candidate.verdict}
    digests = {kind: version.digest if version else None for kind, version in versions.items()}
    return {"light": candidate.verdict.facts["light"], "release": release.digest if release else None, **digests}


def _lines(candidate: Candidate) -> list[str]:
    release, lines = candidate.release, summary(candidate.verdict)
    if release is None:
        return [*lines, f"no candidate: {candidate.stopped or 'the gate is red'}"]
    return [*lines, f"release {release.ref} ({release.short}) awaits approval: approve, then promote"]


if __name__ == "__main__":
    app()
