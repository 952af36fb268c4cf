"""Publish a base model from a Hugging Face folder, so that training can go on from it."""

from pathlib import Path
from typing import Annotated

import typer

from app.training.bases import import_base
from jobs.common import Config, Json, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Option(help="Folder with config.json, safetensors and tokenizer.")],
    name: Annotated[str, typer.Option(help="Name of the model to publish to.")],
    licence: Annotated[str | None, typer.Option(help="What it may be used under, such as an SPDX name.")] = None,
    source: Annotated[str | None, typer.Option(help="Where it is from.")] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Check a causal language model or an encoder in safetensors, and publish it; no code of the folder is run.

    The same folder gives the version that is already there. Train on it with `jobs.train --base NAME`; an encoder
    carries heads alone (`--run head`).
    """
    with job(workspace, config, begins=True) as here:
        version = import_base(folder, name, registry=here.registry, licence=licence, source=source)
        report(version, as_json=as_json)


if __name__ == "__main__":
    app()
