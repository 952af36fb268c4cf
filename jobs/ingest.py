"""Ingest a folder of documents into a new dataset version."""

from typing import Annotated

import typer

from app.core.parquet import read_rows
from app.datasets.pipeline import assess_on_cluster
from app.documents.pipeline import ingest
from app.registry.tables import REJECTS_FILE
from jobs.common import Config, Json, WorkspaceOption, job, report

SHOWN = 5

app = typer.Typer(add_completion=False)


@app.command()
def main(
    source: Annotated[str, typer.Option(help="Folder to read, recursively.")],
    name: Annotated[str, typer.Option(help="Name of the dataset to publish to.")] = "handbook",
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most so many documents.")] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Convert, chunk and publish documents, with a quality report beside them (`signalbox datasets show`).

    What cannot be read is a row of the version's rejects table.

    Beside NAME, a file NAME.meta.yaml (or .meta.json) may say its title, date, modified, language, licence, uri and
    access_labels; in Markdown the front matter, in JSON rows the fields. One that cannot be read refuses its document.

    The same documents and settings give the version that is already there, without work.
    """
    with job(workspace, config, begins=True) as here:
        version = ingest(source, name, registry=here.registry, settings=here.settings.documents, limit=limit)
        assess_on_cluster(version, registry=here.registry, settings=here.settings.datasets)
        rejects = here.registry.folder(version) / REJECTS_FILE
        report(version, as_json=as_json, rejects=str(rejects))
        if not as_json:
            for row in read_rows(rejects)[:SHOWN]:
                print(f"  rejected {row['source']}: {row['reason']}")


if __name__ == "__main__":
    app()
