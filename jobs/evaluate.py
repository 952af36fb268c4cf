"""Evaluate a model on a suite of held-out questions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.evaluation.compare import compare
from app.evaluation.pipeline import evaluate
from app.evaluation.suite import commit_questions
from app.inference.passages import MOST
from app.serving.engines import grounding_of
from jobs.common import Config, Json, WorkspaceOption, job, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    suite: Annotated[str, typer.Option(help="Suite: name, name@number or digest.")],
    model: Annotated[str, typer.Option(help="Model: name, name@number or digest.")] = "small",
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines with `question` and `answers`, committed as the suite first.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Model to compare with, question by question: name, name@number or digest.")
    ] = None,
    context_passages: Annotated[
        int, typer.Option(min=0, max=MOST, help="Passages of --index that stand before each question.")
    ] = 0,
    index: Annotated[str, typer.Option(help="Index that they are found in: name, name@number or digest.")] = "handbook",
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Ask a model every question of a suite; publish exact match and token F1 with bootstrap intervals.

    A gate counts a suite only if it was committed before the training: `signalbox suite commit` does that.

    With --against, the change of exact match from that model is printed with its paired bootstrap interval. With
    --context-passages the model is given what retrieval finds, as in serving, before anybody fine-tunes it.
    """
    with job(workspace, config) as here:
        asked = (
            here.registry.get("suite", suite)
            if questions is None
            else commit_questions(questions, name=suite, registry=here.registry)
        )
        refs = [model, against] if against else [model]
        models = [here.registry.get("model", ref) for ref in refs]
        options: dict[str, Any] = {"registry": here.registry, "settings": here.settings.evaluation}
        searched = here.registry.get("index", index) if context_passages else None
        grounding = grounding_of(searched, context_passages, registry=here.registry)
        version, *others = (evaluate(each, asked, grounding=grounding, **options) for each in models)
        changes = [{"from": other.ref, **compare(other, version, **options).to_dict()} for other in others]
        report(version, as_json=as_json, **({"exact_match_change": changes[0]} if changes else {}))


if __name__ == "__main__":
    app()
