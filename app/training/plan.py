"""A run as a folder: what the driver prepares and the workers read, and the lines that they write back.

Layout: ``plan.json``, ``examples.npz``, ``rejects.parquet`` where rows were left out, tokenizer files,
``progress.jsonl``. Guarantees: the plan is written last, so a folder with a plan is whole; preparing it again changes
nothing. Not guaranteed: that the folder is reachable from other machines; on a cluster of several the workspace must
lie on storage that all of them mount.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from app.core.files import replace_text
from app.core.settings import Settings
from app.training.data import Batches, load_examples
from app.training.heads.batches import HeadBatches
from app.training.settings import ModelSettings, TrainSettings

PLAN_FILE = "plan.json"
EXAMPLES_FILE = "examples.npz"
HELD_OUT_FILE = "heldout.npz"
"""Rows that the run does not learn and is judged by at every checkpoint, where there are any."""
PROGRESS_FILE = "progress.jsonl"
EXPORT = "export"
"""Folder of the finished model in a run's last checkpoint."""
SUMMARY_FILE = "summary.json"


class Plan(Settings):
    """Everything that a worker has to know."""

    name: str
    """Name of the model version to be."""

    settings: TrainSettings
    """The recipe."""

    model: ModelSettings | None = None
    """Shape of the new model, when there is no base."""

    base_folder: Path | None = None
    """Folder of the base model."""

    base_digest: str | None = None
    """Digest of the base model."""

    vocabulary_size: int
    """Entries of the tokenizer."""

    new_tokens: dict[int, list[int]] = Field(default_factory=dict)
    """Ids that were added to the base's vocabulary, and the ids of the base that each stands for."""

    tokens_per_text: dict[str, float] | None = None
    """Mean number of tokens of a text of the data `before` and `after` tokens were added, where some were."""

    pad_token: int = 0
    """Id that rows are filled up with."""

    special_tokens: tuple[int, ...] = (0, 1, 2, 3)
    """Ids that noise neither touches nor brings; those of our own models by default."""

    end_tokens: tuple[int, ...] | None = None
    """Ids that end an answer, where the model is from elsewhere; they go into its generation settings."""

    labels: tuple[str, ...] | None = None
    """What `head` may say of a text or a word, in the order of their numbers."""

    has_unanswered: bool = False
    """Whether some rows of `span` have no answer, so that none may be what is said."""

    num_rows: int
    """Examples that the run draws from."""

    num_held_out: int = 0
    """Examples that it is judged by."""

    num_left_out: int = 0
    """Rows and answers in `rejects.parquet`: longer than `max_row_tokens`, or of no use to the recipe."""


def write_plan(plan: Plan, folder: Path) -> None:
    """Write the plan, last of all files."""
    replace_text(folder / PLAN_FILE, plan.model_dump_json(indent=2))


def read_plan(folder: Path) -> Plan:
    """The plan of a run folder."""
    return Plan.model_validate_json((folder / PLAN_FILE).read_text())


def make_batches(plan: Plan, folder: Path) -> Batches:
    """The run's batches, from the examples that the driver prepared."""
    settings = plan.settings
    kind = partial(HeadBatches, task=settings.head.task) if settings.recipe == "head" else Batches
    return kind(
        load_examples(folder / EXAMPLES_FILE),
        batch_size=settings.batch_size,
        replay_share=settings.replay_share,
        noise=0.0 if settings.recipe in ("cpt", "dpo", "head") else settings.prompt_noise,
        seed=settings.seed,
        vocabulary_size=plan.vocabulary_size,
        pad_token=plan.pad_token,
        special_tokens=plan.special_tokens,
        grouped=settings.pack_tokens is None,
        pack_tokens=settings.pack_tokens,
        pass_tokens=settings.max_tokens_per_worker,
        sides=settings.sides,
    )


def append_progress(folder: Path, line: dict[str, Any]) -> None:
    """Add a line for whoever watches the run."""
    with (folder / PROGRESS_FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_progress(folder: Path) -> Iterator[dict[str, Any]]:
    """Every whole line so far."""
    path = folder / PROGRESS_FILE
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def worker_counts(lines: Sequence[dict[str, Any]]) -> list[int]:
    """How many workers began, at each time that the run was begun or taken up again."""
    return [line["num_workers"] for line in lines if line["event"] == "start"]
