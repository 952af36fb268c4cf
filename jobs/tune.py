"""Search a recipe's settings with Ray Tune, and train the model with the best of them."""

from pathlib import Path
from typing import Annotated

import typer

from app.training.search.space import read_space, with_values
from app.training.trainer import train
from jobs._rows import find_rows
from jobs._start import STARTS, Run, find_start
from jobs.common import Config, Json, TrainerKey, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    space: Annotated[
        Path, typer.Option(help="What varies, in YAML: `learning_rate: {log_uniform: [0.0001, 0.01]}` and the like.")
    ],
    run: Annotated[Run, typer.Option(help="Recipe, by its name below `training:` in the settings.")] = "small_sft",
    name: Annotated[str, typer.Option(help="Name of the search, and of the model to publish to.")] = "small",
    base: Annotated[str | None, typer.Option(help=f"Model to go on from; none for {', '.join(STARTS)}.")] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="config.json of a new model, in place of its shape.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Rows, newest first; repeatable.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Settings to try; default: training.search.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="The search ends after so long.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="The search ends when it has cost so much.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Held-out figure that judges, such as heldout_accuracy; default: the recipe's.")
    ] = None,
    only_search: Annotated[bool, typer.Option("--only-search", help="Train no model with the best.")] = False,
    key: TrainerKey = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Try settings of a recipe on part of the rows, judge them on the others, and train the best on all.

    Every trial is the training loop with one worker; those that fall behind are ended early (ASHA). Trials and search
    stand in the ledger; the model is a candidate as any other. Called again, the search goes on, or is there already.
    """
    from app.training.search.trainer import search  # brings Ray Tune: --help does without

    with job(workspace, config) as here:
        tree = here.settings.training
        recipe = getattr(tree, run)
        started, shape = find_start(here, run, base=base, model_config=model_config)
        rows = find_rows(here, data, recipe=recipe.recipe)
        how = tree.search.asked(num_trials=trials, max_minutes=max_minutes, max_usd=max_usd, metric=metric)
        found = search(
            name=name, space=read_space(space, recipe), recipe=recipe, how=how, data=rows, registry=here.registry,
            base=started, model=shape,
        )  # fmt: skip
        if only_search:
            report(found, as_json=as_json)
            return
        version = train(
            name=name, data=rows, base=started, model=shape, registry=here.registry, workspace=here.workspace,
            settings=with_values(recipe, found.facts["best"]["values"]), signer=here.signer(key),
        )  # fmt: skip
        report(version, as_json=as_json, search=found.ref, tried=found.facts)


if __name__ == "__main__":
    app()
