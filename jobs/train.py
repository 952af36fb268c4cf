"""Train a model: bootstrap it from a random start, fine-tune it, or give it adapters."""

from contextlib import suppress
from typing import Annotated, Literal

import typer

from app.core.errors import UsageError
from app.governance.stoplights import DATA, ask
from app.registry.versions import Registry, Version, VersionNotFound
from app.training.trainer import train
from jobs.common import Config, Json, TrainerKey, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)
Run = Literal["small_cpt", "small_sft", "small_lora", "small_continual", "small_osft", "large_sft"]
STARTS = {"small_cpt": "small", "large_sft": "large"}
"""Runs that begin from a random start, and the shape that they use."""


ROWS_POLICY = "rows"
"""What the data gate asks of rows that were imported: there are no chunks behind them."""


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
    key: TrainerKey = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Train on 2 Ray Train workers with DeepSpeed and publish the model. A killed run goes on where it was.

    The same data, base and settings give the model that is already there, without work. Rows must pass the data gate
    first: where it is red, the exit status is 3.
    """
    with job(workspace, config) as here:
        if (base is None) != (run in STARTS):
            says = "goes on from a model: name it with" if base is None else "begins from a random start: leave out"
            raise WrongStart(f"{run} {says} --base")
        cpt = run == "small_cpt"
        rows = [find_data(here.registry, ref, cpt=cpt) for ref in data or ["handbook" if cpt else "handbook-qa"]]
        for each in () if cpt else rows:
            ask(DATA, each, registry=here.registry, policy=ROWS_POLICY if each.kind == "dataset" else None)
        version = train(
            name=name,
            data=rows,
            base=here.registry.get("model", base) if base else None,
            model=getattr(here.settings.training, STARTS[run]) if run in STARTS else None,
            registry=here.registry,
            workspace=here.workspace,
            settings=getattr(here.settings.training, run),
            signer=here.signer(key),
        )
        report(version, as_json=as_json)


def find_data(registry: Registry, ref: str, *, cpt: bool) -> Version:
    """Synthetic rows of that name, else a dataset's; for `cpt` the other way round."""
    kinds = ["synthetic", "dataset"]
    for kind in reversed(kinds) if cpt else kinds:
        with suppress(VersionNotFound):
            return registry.get(kind, ref)
    return registry.get(kinds[cpt], ref)


if __name__ == "__main__":
    app()
