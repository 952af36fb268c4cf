"""Train a model: bootstrap it from a random start, fine-tune it, or give it adapters."""

from typing import Annotated, Literal

import typer

from app.core.errors import UsageError
from app.training.trainer import train
from jobs._rows import find_rows
from jobs._sequence import learn_sequence
from jobs.common import Config, Json, TrainerKey, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)
Run = Literal["small_cpt", "small_sft", "small_lora", "small_continual", "small_osft", "small_dpo", "large_sft"]
STARTS = {"small_cpt": "small", "large_sft": "large"}
"""Runs that begin from a random start, and the shape that they use."""


class WrongStart(UsageError):
    """This run goes on from a model, or begins from a random start: name one with --base, or leave --base out."""


@app.command()
def main(
    run: Annotated[Run, typer.Option(help="Recipe, by its name below `training:` in the settings.")] = "small_sft",
    name: Annotated[str, typer.Option(help="Name of the model to publish to.")] = "small",
    base: Annotated[str | None, typer.Option(help="Model to go on from; none for small_cpt and large_sft.")] = None,
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
        str | None, typer.Option(help="Policy of each task of --continual: a file or a shipped one [continual].")
    ] = None,
    key: TrainerKey = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Train on 2 Ray Train workers with DeepSpeed and publish the model. A killed run goes on where it was.

    The same data, base and settings give the model that is already there, without work. Rows must pass the data gate
    first, and with --continual each task's model its policy: where one is red, the exit status is 3.
    """
    with job(workspace, config) as here:
        if (base is None) != (run in STARTS):
            says = "goes on from a model: name it with" if base is None else "begins from a random start: leave out"
            raise WrongStart(f"{run} {says} --base")
        recipe, started = getattr(here.settings.training, run), here.registry.get("model", base) if base else None
        rows = find_rows(here, data, recipe=recipe.recipe)
        if continual:
            learn_sequence(here, name, started, rows, suite or (), recipe, policy=policy, key=key, as_json=as_json)
        version = train(
            name=name,
            data=rows,
            base=started,
            model=getattr(here.settings.training, STARTS[run]) if run in STARTS else None,
            registry=here.registry,
            workspace=here.workspace,
            settings=recipe,
            signer=here.signer(key),
        )
        report(version, as_json=as_json)


if __name__ == "__main__":
    app()
