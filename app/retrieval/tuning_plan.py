"""A tuning as a folder: what the driver prepares and the workers read, and the lines that they write back.

Layout: ``examples.json``, ``plan.json``, ``progress.jsonl``. Guarantees: the plan is written last, so a folder with a
plan is whole. Not guaranteed: that the folder is reachable from other machines; on a cluster of several the workspace
must lie on storage that all of them mount.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.core.files import replace_text
from app.core.settings import Settings
from app.retrieval.settings import TuneSettings

ENCODER, RERANKER = "encoder", "reranker"
PLAN_FILE, PROGRESS_FILE = "plan.json", "progress.jsonl"
STATE_FILE, SUMMARY_FILE = "state.pt", "summary.json"


class TunePlan(Settings):
    """Everything that a worker has to know, beside the examples."""

    name: str
    """Name of the retriever to be."""

    base_folder: Path
    """Folder of the encoder of questions that is tuned."""

    chunks_folder: Path
    """Folder of the encoder of chunks, which stays."""

    settings: TuneSettings
    """How."""


def write_plan(plan: TunePlan, folder: Path) -> None:
    """Write the plan, last of all files."""
    replace_text(folder / PLAN_FILE, plan.model_dump_json(indent=2))


def read_plan(folder: Path) -> TunePlan:
    """The plan of a run folder."""
    return TunePlan.model_validate_json((folder / PLAN_FILE).read_text(encoding="utf-8"))


def append_line(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line for whoever watches the run."""
    with (folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Every whole line so far."""
    path = folder / PROGRESS_FILE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
