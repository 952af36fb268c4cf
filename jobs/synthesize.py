"""Make questions and answers from a dataset's chunks."""

from typing import Annotated

import typer

from app.datasets.pipeline import assess_on_cluster
from app.synthesis.pipeline import synthesize
from jobs.common import Config, Json, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    dataset: Annotated[str, typer.Option(help="Dataset to read: name, name@number or digest.")] = "handbook",
    name: Annotated[
        str | None, typer.Option(help="Name of the synthetic dataset; default: the dataset's, -qa.")
    ] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Publish synthetic rows; each names its chunk, method, template and seed. Conflicts are in the rejects table.

    A quality report lies beside them: `signalbox datasets show` prints it.
    """
    with job(workspace, config) as here:
        version = here.registry.get("dataset", dataset)
        rows = synthesize(
            version, name=name or f"{version.name}-qa", registry=here.registry, settings=here.settings.synthesis
        )
        assess_on_cluster(rows, registry=here.registry, settings=here.settings.datasets)
        report(rows, as_json=as_json)


if __name__ == "__main__":
    app()
