"""Evaluate a model on a suite of held-out questions."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.core.digests import digest_json
from app.core.errors import UsageError
from app.core.files import FileUnusable, read_text
from app.evaluation.compare import compare
from app.evaluation.pipeline import evaluate
from app.evaluation.suite import publish_suite
from app.registry.versions import Registry, Version
from jobs.common import Config, Json, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)


class BadQuestions(UsageError):
    """A file of questions holds one JSON object a line, with `question` and `answers`: mend the line that is named."""


@app.command()
def main(
    suite: Annotated[str, typer.Option(help="Suite: name, name@number or digest.")],
    model: Annotated[str, typer.Option(help="Model: name, name@number or digest.")] = "small",
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines with `question` and `answers`, published as the suite first.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Model to compare with, question by question: name, name@number or digest.")
    ] = None,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Ask a model every question of a suite; publish exact match and token F1 with bootstrap intervals.

    With --against, the change of exact match from that model is printed with its paired bootstrap interval.
    """
    with job(workspace, config) as here:
        asked = _publish(suite, questions, here.registry) if questions else here.registry.get("suite", suite)
        refs = [model, against] if against else [model]
        models = [here.registry.get("model", ref) for ref in refs]
        options: dict[str, Any] = {"registry": here.registry, "settings": here.settings.evaluation}
        version, *others = (evaluate(each, asked, **options) for each in models)
        changes = [{"from": other.ref, **compare(other, version, **options).to_dict()} for other in others]
        report(version, as_json=as_json, **({"exact_match_change": changes[0]} if changes else {}))


def _publish(name: str, path: Path, registry: Registry) -> Version:
    try:
        lines = read_text(path).splitlines()
    except FileUnusable as error:
        raise BadQuestions(f"{error}: name a file of JSON lines") from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return publish_suite(name, rows, origin=path.name, registry=registry)


def _row(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        given = json.loads(line)
        if not isinstance(given["answers"], list):
            raise TypeError
        row = {"question": str(given["question"]), "answers": [str(answer) for answer in given["answers"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise BadQuestions(f"{path}:{number} needs `question` and a list `answers`: mend this line") from error
    return {"question_id": digest_json(row), **row, "subject": str(given.get("subject", "")), "source": path.name}


if __name__ == "__main__":
    app()
