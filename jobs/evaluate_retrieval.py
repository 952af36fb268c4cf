"""Evaluate an index on questions whose chunks are known, against the version in production."""

from typing import Annotated

import typer

from app.registry.versions import Registry, Version, VersionNotFound
from app.retrieval.evaluate import evaluate_index
from jobs.common import Config, Json, WorkspaceOption, find_questions, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    questions: Annotated[
        str, typer.Option(help="Synthetic rows, or a suite with sources: name, name@number or digest.")
    ],
    index: Annotated[str, typer.Option(help="Index: name, name@number or digest.")] = "handbook",
    against: Annotated[
        str | None, typer.Option(help="Index to compare with, or a release, such as assistant@production.")
    ] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Search for every question; publish recall, MRR, MAP and nDCG with bootstrap intervals.

    With --against, every measure's change from that index is published with its paired bootstrap interval.
    """
    with job(workspace, config) as here:
        version = here.registry.get("index", index)
        asked = find_questions(questions, registry=here.registry)
        before = _index_of(against, here.registry) if against else None
        report(evaluate_index(version, asked, registry=here.registry, before=before), as_json=as_json)


def _index_of(ref: str, registry: Registry) -> Version:
    try:
        return registry.get("index", registry.get("release", ref).facts["index"])
    except VersionNotFound:
        return registry.get("index", ref)


if __name__ == "__main__":
    app()
