"""Answer a sample of production's requests again, offline: by its largest model, or by another release."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.serving.feedback import Scores
from app.serving.offline import Here
from app.serving.release import read_release, resolve_release
from app.serving.settings import ServingSettings
from app.serving.shadow import sample_of, shadow
from jobs.common import Config, Json, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    release: Annotated[
        str | None, typer.Option(help="Release that answers, promoted or not; default: production's largest model.")
    ] = None,
    production: Annotated[str, typer.Option(help="Release whose requests are taken.")] = "assistant@production",
    sample: Annotated[int, typer.Option(min=1, help="Requests at most, by a hash of their ids.")] = 200,
    days: Annotated[float | None, typer.Option(help="Only requests of so many days back.")] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Publish two evaluations paired by request: of the logged answers, and of what the other says to the same.

    Right is what callers said by /v1/feedback, else what production's largest model says. Then
    `signalbox gate judge --policy shadow --artifact release:REF --evaluation traffic=B --production traffic=A`.
    """
    with job(workspace, config) as here:
        serving = resolve_release(here.registry, production)
        other = read_release(here.registry, here.registry.get("release", release)) if release else None
        rungs = [*serving.models, *(other.models if other else ())]
        further = tuple(dict.fromkeys(each for each in rungs if each not in ("small", "large")))
        settings = ServingSettings(workspace=str(here.workspace.root), further_rungs=further)
        since = datetime.now(UTC) - timedelta(days=days) if days else None
        scores = Scores.read(here.registry)
        asked, num_skipped = sample_of(here.registry, serving.digest, num=sample, since=since, scores=scores)
        how: dict[str, Any] = {"registry": here.registry, "settings": here.settings.evaluation}
        before, after = shadow(serving, other, asked, backends=Here(settings), serving=settings, **how)
        report(after, as_json=as_json, production=before.ref, num_skipped=num_skipped)


if __name__ == "__main__":
    app()
