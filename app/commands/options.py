"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", help="Folder of the workspace.", show_default=False),
]
NewWorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", help="Folder of the workspace; made when missing.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]


def group(name: str, help_text: str) -> typer.Typer:
    """A typer of commands; an empty name puts them at the top level."""
    return typer.Typer(name=name or None, help=help_text, no_args_is_help=True, rich_markup_mode="rich")
