"""Train a router on outcomes: rows, suites, evaluations, and a shadow sample of the request log with feedback."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from app.loop_router import train_router
from app.registry.versions import Version
from app.routing.sample import KIND
from app.serving.feedback import Scores
from app.serving.outcomes import LOG, ask_models, find_source, questions_of, questions_of_log, read_feedback
from app.serving.release import Release, resolve_release
from jobs.common import Config, Job, Json, TrainerKey, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)
Sources = Annotated[
    list[str],
    typer.Option("--from", help="Outcomes, synthetic rows, a suite, an evaluation, or `log`; may be repeated."),
]


@app.command()
def main(
    sources: Sources,
    release: Annotated[str, typer.Option(help="Release whose models answer.")] = "assistant@production",
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the log: the shadow sample's share.")] = 0.1,
    days: Annotated[float | None, typer.Option(help="Of the log: only so many days back.")] = None,
    feedback: Annotated[Path | None, typer.Option(help="Scores besides those of /v1/feedback, JSON lines.")] = None,
    again: Annotated[str | None, typer.Option(help="A router whose guarantee alone is made anew.")] = None,
    outcomes_only: Annotated[bool, typer.Option("--outcomes-only", help="Publish the outcomes, no router.")] = False,
    key: TrainerKey = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Ask every model of the release the questions of the sources, publish the outcomes, then a router learnt of them.

    Half of the rows teach, three tenths make the guarantee, two tenths judge. With fewer than
    routing.min_forecast_rows to learn from, the router only judges answers, and its fact `lacks` says so.
    Then `signalbox router propose` judges it. Settings: routing, such as tolerance, explore, min_forecast_rows.
    """
    with job(workspace, config) as here:
        serving = resolve_release(here.registry, release)
        since = datetime.now(UTC) - timedelta(days=days) if days else None
        asked = [_outcomes(each, here, serving, share, since, feedback) for each in sources]
        if outcomes_only:
            report(asked[-1], as_json=as_json)
            return
        known = here.registry.get("router", again) if again else None
        how: dict[str, Any] = {
            "name": here.settings.routing.name,
            "registry": here.registry,
            "settings": here.settings.routing,
        }
        report(train_router(asked, again=known, signer=here.signer(key), **how), as_json=as_json)


def _outcomes(
    ref: str, here: Job, release: Release, share: float, since: datetime | None, feedback: Path | None
) -> Version:
    """Outcomes of a source; those that are outcomes already are taken as they are."""
    how: dict[str, Any] = {"registry": here.registry, "settings": here.settings.routing}
    if ref == LOG:
        said = Scores.read(here.registry, read_feedback(feedback) if feedback else {})
        folder = here.workspace.requests_dir
        asked = questions_of_log(folder, release=release.digest, share=share, since=since, feedback=said)
        return ask_models(LOG, asked, release, sources=[], **how)
    source = find_source(ref, here.registry)
    if source.kind == KIND:
        return source
    questions = questions_of(source, here.registry)
    return ask_models(source.name, questions, release, sources=[source.digest], **how)


if __name__ == "__main__":
    app()
