"""Judge a release that is to be proposed, approve it, put it into production, and let the cluster serve it.

Exit status: 0, it serves; 3, the gate is red; 2, it was asked wrongly; 1, refused, for want of approvals above all.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.core.errors import UsageError
from app.inference.passages import MOST
from app.loop import put_into_production
from app.serving.deploy import LOCAL_CONFIG, deploy
from jobs._proposing import propose_models, propose_retriever, sign
from jobs.common import Config, WorkspaceOption, job

app = typer.Typer(add_completion=False)


@app.command()
def main(
    release: Annotated[
        str, typer.Option(help="Release to promote; with --suite or --index, the name to propose under.")
    ] = "assistant",
    suite: Annotated[str | None, typer.Option(help="Propose a release first: judge --small on this suite.")] = None,
    small: Annotated[str, typer.Option(help="Small model of a proposed release.")] = "small",
    large: Annotated[str | None, typer.Option(help="Large model of a proposed release, if it has one.")] = None,
    dataset: Annotated[str, typer.Option(help="Documents of a proposed release.")] = "handbook",
    index: Annotated[
        str | None,
        typer.Option(help="Propose what is in production, or a first release without models, with this index."),
    ] = None,
    questions: Annotated[
        str | None, typer.Option(help="Suite that judges --index; its rows name sources or chunks.")
    ] = None,
    context_passages: Annotated[
        int, typer.Option(min=0, max=MOST, help="Passages that the models of --suite are given, judged and serving.")
    ] = 0,
    policy: Annotated[
        str | None, typer.Option(help="Policy that judges it: a file or a shipped one's name [candidate, retriever].")
    ] = None,
    approver: Annotated[
        str | None, typer.Option(help="Sign an approval with this key; made by `signalbox keys new`.")
    ] = None,
    printed_name: Annotated[str | None, typer.Option(help="The approver's name, as it stands in the approval.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "promoted by hand",
    key: Annotated[str | None, typer.Option(help="Key that signs the promotion; default: the log's own.")] = None,
    serve_config: Annotated[Path, typer.Option(help="Serve config to deploy.")] = LOCAL_CONFIG,
    serve: Annotated[bool, typer.Option(help="Deploy it here; not where another cluster serves.")] = True,
    config: Config = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Move the alias `production`. Refused without a verdict that is not red and the approvals its policy asks for."""
    with job(workspace, config) as here:
        if approver and not printed_name:
            raise UsageError("an approval carries a person's name: give --printed-name with --approver")
        if bool(index) != bool(questions) or (index and suite):
            raise UsageError("an index is judged on questions: give --index with --questions, and no --suite")
        if context_passages and not suite:
            raise UsageError("models are judged anew with passages: give --suite with --context-passages")
        if index and questions:
            chosen = propose_retriever(here, release, index, questions, policy=policy)
        elif suite:
            parts: dict[str, Any] = {"small": small, "large": large, "dataset": dataset, "policy": policy}
            chosen = propose_models(here, release, suite, context_passages=context_passages, **parts)
        else:
            chosen = here.registry.get("release", release)
        if approver:
            sign(here, chosen, key=approver, printed_name=str(printed_name))
        put_into_production(chosen, registry=here.registry, signer=here.signer(key), reason=reason)
        if serve:
            deploy(workspace=here.workspace, release_ref=chosen.digest, config_path=serve_config)
        print(f"{chosen.ref} ({chosen.short}) is in production{' and serves' if serve else ''}")


if __name__ == "__main__":
    app()
