"""What `jobs.train` begins with: a model that is there, or the shape of a new one."""

from pathlib import Path
from typing import Literal

from app.core.errors import UsageError
from app.registry.versions import Version
from app.training.settings import ModelSettings
from jobs.common import Job

Run = Literal[
    "small_cpt",
    "small_sft",
    "small_lora",
    "small_continual",
    "small_osft",
    "small_dpo",
    "head",
    "pretrain",
    "expand",
    "tokenizer",
    "large_sft",
]
"""Recipes, by their names below `training:` in the settings."""
STARTS = {"small_cpt": "small", "pretrain": "small", "large_sft": "large"}
"""Runs that begin from a random start, and the shape that they use."""


class WrongStart(UsageError):
    """This run goes on from a model, or begins from a random start: name one with --base, or leave --base out."""


def find_start(
    here: Job, run: str, *, base: str | None, model_config: Path | None
) -> tuple[Version | None, ModelSettings | None]:
    """The base of a run, or the shape of its model, which a configuration file may state.

    Raises:
        WrongStart: the run does not begin so.
    """
    if (base is None) != (run in STARTS):
        says = "goes on from a model: name it with" if base is None else "begins from a random start: leave out"
        raise WrongStart(f"{run} {says} --base")
    if base is not None:
        if model_config:
            raise WrongStart(f"{run} goes on from a model: leave out --model-config")
        return here.registry.get("model", base), None
    shape: ModelSettings = getattr(here.settings.training, STARTS[run])
    return None, shape.model_copy(update={"config_file": model_config}) if model_config else shape
