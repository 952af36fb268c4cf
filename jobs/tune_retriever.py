"""Tune the encoder of an index, train a re-ranker and have BM25 learn, on questions whose chunks are known."""

from typing import Annotated

import typer

from app.retrieval.trainer import tune_retriever
from jobs.common import Config, Json, WorkspaceOption, find_questions, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    questions: Annotated[
        list[str],
        typer.Option(help="Synthetic rows, or a suite with sources: name, name@number or digest; may be repeated."),
    ],
    index: Annotated[
        str, typer.Option(help="Index whose chunks are learnt, and whose encoder is the base.")
    ] = "handbook",
    name: Annotated[str | None, typer.Option(help="Name of the retriever; default: the index's name.")] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Fine-tune the encoder of questions, train a cross-encoder, and publish both as a version of kind retriever.

    With it goes what BM25 learns of the questions: weights of words and pairs, and the words that chunks are asked by.

    A part of the questions, half of them about chunks of their own, is held out: on it the share of the tuned weights,
    the weight of the vectors, and depth and weight of the re-ranker are chosen, and the figures of the manifest are
    measured. Do not name the suite that a gate will judge by. Then jobs.index --retriever NAME builds an index for it;
    the chunks keep their vectors.

    Settings: retrieval.tune, such as encoder_epochs, reranker_epochs, term_epochs, learn_asked, num_workers.
    """
    with job(workspace, config) as here:
        version = here.registry.get("index", index)
        asked = [find_questions(each, registry=here.registry) for each in questions]
        made = tune_retriever(
            version, asked, name=name or version.name, registry=here.registry, settings=here.settings.retrieval
        )
        report(made, as_json=as_json)


if __name__ == "__main__":
    app()
