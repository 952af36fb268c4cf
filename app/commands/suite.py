"""`signalbox suite`: the questions that will judge a model, committed before it is trained."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import JsonOption, NewWorkspaceOption, group
from app.core.workspace import Workspace

app = group("suite", "Held-out questions, committed to the ledger before the training that they will judge.")


@app.callback()
def suites() -> None:
    """Held-out questions, committed to the ledger before the training that they will judge."""


@app.command()
def commit(
    questions: Annotated[Path, typer.Argument(help="JSON lines: `question`, and `answers` or `source` or `chunk_id`.")],
    name: Annotated[str, typer.Option(help="Name of the suite to publish to.")],
    workspace: NewWorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Commit a file of questions as a suite. A gate refuses a suite that came after the training it judges.

    Answers judge a model; the source of the document, or the chunk, that answers a question judges an index.
    """
    from app.evaluation.suite import commit_questions
    from app.governance.evidence import leaf_of
    from app.registry.versions import open_registry

    registry = open_registry(Workspace.find(workspace))
    suite = commit_questions(questions, name=name, registry=registry)
    leaf = leaf_of(suite, registry=registry)
    index = leaf.index if leaf else None
    whole = {"ref": suite.ref, "digest": suite.digest, "num_rows": suite.facts["num_rows"], "leaf": index}
    typer.echo(
        json.dumps(whole) if as_json else "suite {ref}: {num_rows} questions, leaf {leaf}, {digest}".format(**whole)
    )
