"""`signalbox feedback`: what callers said by `/v1/feedback`, and the right answers that they gave as preferences."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

app = group("", "Feedback.")


@app.command()
def feedback(
    out: Annotated[
        Path | None, typer.Option(help="Write the right answers that callers gave as preferences, for jobs.curate.")
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell how many answers of each release were rated, and how; write corrections as `prompt`, `chosen`, `rejected`.

    The file holds what users wrote, and no erasure reaches it: curate it into a dataset, and remove it.
    """
    from app.core.files import replace_text
    from app.registry.versions import open_registry
    from app.serving.corrections import corrections, rated

    registry = open_registry(Workspace.existing(workspace))
    found = rated(registry)
    if out:
        rows, num_skipped = corrections(registry)
        replace_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        skipped = f", {num_skipped} skipped: their requests are of another version" if num_skipped else ""
        typer.echo(f"{len(rows)} preferences in {out}{skipped}", err=True)
    told = [f"{name}: {each['num']} rated, mean score {each['mean']:.3f}" for name, each in found.items()]
    typer.echo(json.dumps(found) if as_json else "\n".join(told or ["nobody has rated an answer"]))
