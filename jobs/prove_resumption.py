"""Prove on this cluster that a training which is killed and goes on ends where an undisturbed one does."""

from typing import Annotated

import typer

from app.training.equivalence import prove_resumption
from jobs._rows import find_rows
from jobs._start import STARTS, Run, find_start
from jobs.common import Config, Json, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)
DIFFERS_STATUS = 1


@app.command()
def main(
    run: Annotated[Run, typer.Option(help="Recipe, by its name below `training:` in the settings.")] = "small_sft",
    name: Annotated[str, typer.Option(help="Name of the finding to publish.")] = "small",
    base: Annotated[str | None, typer.Option(help=f"Model to go on from; none for {', '.join(STARTS)}.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Rows, newest first; repeatable.")] = None,
    steps: Annotated[int, typer.Option(min=4, help="Optimiser steps of each of the two runs.")] = 60,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Make a run twice with one worker in float32, kill the worker of the second (SIGKILL), compare what they made.

    The finding is published with where it was killed, where it went on, and the digests of the files; it stands in the
    ledger, and `signalbox verify` covers it. Exit status 1 where the two differ.
    """
    with job(workspace, config) as here:
        recipe = getattr(here.settings.training, run)
        started, shape = find_start(here, run, base=base, model_config=None)
        found = prove_resumption(
            name=name,
            data=find_rows(here, data, recipe=recipe.recipe),
            registry=here.registry,
            settings=recipe.model_copy(update={"num_steps": steps}),
            base=started,
            model=shape,
        )
        report(found, as_json=as_json)
        if not found.facts["is_equal"]:
            raise typer.Exit(DIFFERS_STATUS)


if __name__ == "__main__":
    app()
