"""`signalbox`: the command line, put together from the modules of ``app.commands``.

Guarantees: an error is one sentence on stderr and an exit status (1: it failed, 2: it was asked wrongly); `--json`
writes one JSON document on stdout. Nothing heavy is imported before a command needs it.
"""

import sys

import typer

from app.commands import (
    access,
    approvals,
    canary,
    cluster,
    datasets,
    erase,
    evidence,
    feedback,
    gate,
    keys,
    ledger,
    lineage,
    models,
    moves,
    proof,
    receipts,
    router,
    suite,
)
from app.core.errors import UsageError, exit_status

GROUPS = (
    access,
    approvals,
    canary,
    cluster,
    datasets,
    erase,
    evidence,
    feedback,
    gate,
    keys,
    ledger,
    lineage,
    models,
    moves,
    proof,
    receipts,
    router,
    suite,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Turns documents into governed, continuously adapted language models, and proves every step.

    [bold]signalbox demo[/bold] plays the whole loop. To work by hand: [bold]signalbox up[/bold], then
    [bold]eval "$(signalbox env)"[/bold], then
    [bold]ray job submit --working-dir . -- python -m jobs.ingest --help[/bold], and at the end
    [bold]signalbox down[/bold].

    Everything is kept in one folder, the workspace: --workspace, else $SIGNALBOX_WORKSPACE, else ./.signalbox.""",
)
for each in GROUPS:
    app.add_typer(each.app)


def main() -> None:
    """The console script."""
    with exit_status():
        for word in sys.argv[1:]:
            _check_text(word)
        app()


def _check_text(word: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{word!r} is not UTF-8: type it again, or rename the file") from error


if __name__ == "__main__":
    main()
