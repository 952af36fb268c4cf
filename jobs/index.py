"""Embed a dataset's chunks and publish an index version."""

from typing import Annotated

import typer

from app.retrieval.pipeline import build_index
from jobs.common import Config, Json, WorkspaceOption, find_questions, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    dataset: Annotated[str, typer.Option(help="Dataset to index: name, name@number or digest.")] = "handbook",
    name: Annotated[str | None, typer.Option(help="Name of the index; default: the dataset's name.")] = None,
    questions: Annotated[
        str | None, typer.Option(help="Rows to calibrate the fusion of words, vectors and titles on.")
    ] = None,
    retriever: Annotated[
        str | None, typer.Option(help="Tuned retriever whose encoder embeds: name, name@number or digest.")
    ] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Embed every chunk; publish an index of vectors (FAISS) and words (BM25) over them.

    The encoder is the pinned one, or that of a retriever which jobs.tune_retriever made.
    """
    with job(workspace, config) as here:
        version = here.registry.get("dataset", dataset)
        index = build_index(
            version,
            name=name or version.name,
            registry=here.registry,
            settings=here.settings.retrieval,
            questions=find_questions(questions, registry=here.registry) if questions else None,
            retriever=here.registry.get("retriever", retriever) if retriever else None,
        )
        report(index, as_json=as_json)


if __name__ == "__main__":
    app()
