"""Train a model: bootstrap it from a random start, fine-tune it, or give it adapters."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from app.training.estimate import foreseen
from app.training.trainer import forecast, train
from jobs._rows import find_rows
from jobs._sequence import learn_sequence
from jobs._start import STARTS, Run, find_start
from jobs.common import Config, Json, TrainerKey, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    run: Annotated[Run, typer.Option(help="Recipe, by its name below `training:` in the settings.")] = "small_sft",
    name: Annotated[str, typer.Option(help="Name of the model to publish to.")] = "small",
    base: Annotated[str | None, typer.Option(help=f"Model to go on from; none for {', '.join(STARTS)}.")] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="config.json of a new model, in place of its shape.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Rows, synthetic or imported (small_cpt: a dataset), newest first; repeatable."),
    ] = None,
    continual: Annotated[
        bool, typer.Option("--continual", help="Each --data is a task: learn them in turn, in the order given.")
    ] = False,
    suite: Annotated[
        list[str] | None, typer.Option(help="Suite of each task of --continual; default: its held-out rows.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Policy of each task of --continual: a file or a shipped one; default: continual."),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Say what memory, time and dollars it would take; a few steps are measured at most."
        ),
    ] = False,
    key: TrainerKey = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Train on 2 Ray Train workers with DeepSpeed and publish the model. A killed run goes on where it was.

    The same data, base and settings give the model that is already there, without work. Rows must pass the data gate
    first, the estimate that of the budget, and with --continual each task's model its policy: where one is red, the
    exit status is 3. SIGUSR1 saves a checkpoint; SIGTERM saves one and ends with status 75: the same command goes on
    from that step.
    """
    with job(workspace, config) as here:
        recipe = getattr(here.settings.training, run)
        started, model = find_start(here, run, base=base, model_config=model_config)
        rows = find_rows(here, data, recipe=recipe.recipe)
        if continual:
            how: dict[str, Any] = {"policy": policy, "key": key, "as_json": as_json, "estimate": estimate}
            learn_sequence(here, name, started, rows, suite or (), recipe, **how)
        given: dict[str, Any] = {"name": name, "data": rows, "base": started, "model": model, "settings": recipe}
        if estimate:
            found = partial(forecast, registry=here.registry)
            print(foreseen(**given, registry=here.registry, found=found).shown(as_json=as_json))
            return
        version = train(**given, registry=here.registry, workspace=here.workspace, signer=here.signer(key))
        report(version, as_json=as_json)


if __name__ == "__main__":
    app()
