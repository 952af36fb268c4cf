"""Read rows from files, or an earlier version's, and publish them checked, cleaned and divided, with a report."""

from pathlib import Path
from typing import Annotated

import typer

from app.core.errors import UsageError
from app.datasets.curate import SUITE, Curation, Reading, assess, curate, import_rows
from app.datasets.pipeline import on_cluster
from app.datasets.settings import DatasetSettings
from jobs.common import Config, Json, WorkspaceOption, job, report

DROPPABLE = ("near_duplicates", "personal", "encoding", "contamination", "embedding", "label_issues")

app = typer.Typer(add_completion=False)


@app.command()
def main(
    source: Annotated[
        Path | None, typer.Option(help="File or folder: jsonl, json, csv, parquet, yaml, gzipped.")
    ] = None,
    of: Annotated[str | None, typer.Option(help="An earlier version instead: synthetic rows, else a dataset.")] = None,
    name: Annotated[str | None, typer.Option(help="Name to publish to; with --of and no name, only a report.")] = None,
    format_name: Annotated[
        str, typer.Option("--format", help="Format of the records; auto: by their fields.")
    ] = "auto",
    rename: Annotated[list[str] | None, typer.Option(help="OLD=NEW name of a field; repeatable.")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="Suite to keep out of the rows; repeatable.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help=f"Drop rows with: {', '.join(DROPPABLE)}; repeatable.")] = None,
    mask_personal: Annotated[bool, typer.Option(help="Put <KIND> in the place of personal data.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Take at most so many records of each file.")] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Publish rows with their splits, rejects, findings and quality report. `signalbox datasets show` prints it.

    The same files, settings and suites give the version that is already there, without work.
    """
    with job(workspace, config, begins=True) as here:
        if (source is None) == (of is None):
            raise UsageError("name files with --source, or a version with --of, and not both")
        settings = with_actions(here.settings.datasets, drop or [], mask_personal=mask_personal)
        suites = [here.registry.get(SUITE, ref) for ref in suite or []]
        by = Curation(here.registry, settings, on_cluster, suites)
        if source:
            reading = Reading(format_name, dict(_pair(each) for each in rename or []), limit)
            version = import_rows(source, name or _stem(source), by=by, reading=reading)
        else:
            kind = "synthetic" if here.registry.versions("synthetic", str(of).partition("@")[0]) else "dataset"
            earlier = here.registry.get(kind, str(of))
            version = curate(earlier, name, by=by) if name else assess(earlier, by=by)
        report(version, as_json=as_json)


def with_actions(settings: DatasetSettings, dropped: list[str], *, mask_personal: bool) -> DatasetSettings:
    """The settings with the actions that were asked for."""
    if unknown := sorted(set(dropped) - set(DROPPABLE)):
        raise UsageError(f"rows are not dropped for {unknown[0]!r}: name one of {', '.join(DROPPABLE)}")
    actions = dict.fromkeys(dropped, "drop") | ({"personal": "mask"} if mask_personal else {})
    quality = settings.quality.model_copy(update=actions)
    return settings.model_copy(update={"quality": quality})


def _stem(source: Path) -> str:
    return source.name.split(".")[0]


def _pair(text: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not separator or not old or not new:
        raise UsageError(f"{text!r} renames nothing: write OLD=NEW")
    return old, new


if __name__ == "__main__":
    app()
