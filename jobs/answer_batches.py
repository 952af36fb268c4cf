"""Answer batches of requests that may wait (`/v1/batches`): one, or all that have not ended; a killed job goes on."""

import json
from typing import Annotated

import typer

from app.serving.batches import Batches
from app.serving.pipeline import answer_batch
from app.serving.release import resolve_production
from app.serving.settings import ServingSettings
from jobs.common import Config, Json, WorkspaceOption, job

app = typer.Typer(add_completion=False)


@app.command()
def main(
    batch: Annotated[str | None, typer.Option(help="The batch's id; default: all that have not ended.")] = None,
    release: Annotated[str, typer.Option(help="The release that answers.")] = "assistant@production",
    num_workers: Annotated[int, typer.Option(min=1, help="Actors, each with its own copy of the models.")] = 1,
    at_once: Annotated[int, typer.Option(min=1, help="Requests that an actor answers together.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Answer the batches, oldest first, by the large model; print how each ended."""
    with job(workspace, config) as here:
        batches = Batches(here.workspace)
        found = resolve_production(here.registry, release)
        settings = ServingSettings(workspace=str(here.workspace.root), max_new_tokens=max_new_tokens)
        for each in [batches.owner_of(batch).batch(batch)["id"]] if batch else batches.waiting():
            ended = answer_batch(
                here.workspace,
                each,
                release=found.digest,
                settings=settings,
                num_workers=num_workers,
                at_once=at_once,
            )
            counts = ended["request_counts"]
            said = f"{each} {ended['status']}: {counts['completed']} of {counts['total']} answered"
            print(json.dumps(ended) if as_json else said)


if __name__ == "__main__":
    app()
