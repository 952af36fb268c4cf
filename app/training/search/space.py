"""A search space: which settings of a recipe vary, and how; and the trials that are drawn from it. No Ray, no torch.

A file names settings by their dotted path below the recipe::

    learning_rate: {log_uniform: [1.0e-4, 1.0e-2]}
    batch_size: {choice: [16, 32]}
    lora.rank: {integer: [4, 32]}

Guarantees: trials follow from the space, the recipe and the seed; every trial's settings are whole and valid before
the first one starts. Draws at random with early ends are ASHA's own way (Li et al., A System for Massively Parallel
Hyperparameter Tuning, arXiv 1810.05934).
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError

from app.core.digests import digest_json, hex_of
from app.core.errors import UsageError
from app.core.files import read_yaml
from app.core.settings import Settings, first_fault
from app.training.data import Example
from app.training.errors import NothingToTrain
from app.training.settings import TrainSettings

KINDS = {"choice": "a list of values", "uniform": "two numbers", "log_uniform": "two numbers over 0", "integer": "two"}
FIXED = (
    *("workers", "recipe", "block_tokens", "max_row_tokens", "num_steps", "num_epochs", "num_checkpoints"),
    *("new_tokens", "replay_withdrawn", "replay_rows", "replay_by", "head.task", "head.overlap_tokens"),
)
"""What may not vary: the rows that are learned and judged, the length of a trial, and where it computes."""
MOST_HELD_OUT = 512


class BadSpace(UsageError):
    """The search space cannot be used; the message names the setting and what is wrong with it."""


class SearchSettings(Settings):
    """A search over a recipe's settings."""

    num_trials: PositiveInt = 8
    """Settings that are tried."""

    num_rungs: PositiveInt = 4
    """Times that a trial is judged on held-out rows, at even distances; at each the worse ones may be ended (ASHA)."""

    reduction: float = Field(default=2.0, gt=1)
    """Of so many trials at a rung, one goes on."""

    heldout_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the rows that trials are judged on and do not learn; the best learns all rows again."""

    seed: int = 0
    """Seed of the draws."""

    num_concurrent: PositiveInt | None = None
    """Trials at once at most; as many as the cluster has room for when not given. With 1, early ends are repeatable."""

    max_minutes: PositiveFloat | None = None
    """The search ends after so long; trials that run then count as far as they came."""

    max_usd: PositiveFloat | None = None
    """The search ends when its trials have cost so much."""

    metric: str | None = None
    """Held-out figure that judges, by its name among a model's facts: by default `heldout_loss`, in `head` the task's
    own (`heldout_macro_f1`, `heldout_span_f1`, `heldout_f1`, `heldout_spearman`), in `dpo` `heldout_pair_accuracy`."""

    def inputs(self) -> dict[str, Any]:
        """What decides the trials; a metric where one is asked for."""
        return self.model_dump(mode="json", exclude=set() if self.metric else {"metric"})

    def asked(self, **given: Any) -> Self:
        """These settings, with those of the given that are not None.

        Raises:
            BadSpace: one of them is out of its bounds.
        """
        try:
            return self.model_validate({**self.model_dump(), **{k: v for k, v in given.items() if v is not None}})
        except ValidationError as error:
            raise BadSpace(f"search: {first_fault(error)}") from error


class Trial(NamedTuple):
    """One of the settings that are tried."""

    number: int
    values: dict[str, Any]
    """What was drawn, by dotted name."""
    settings: TrainSettings
    """The recipe with it."""


Space = dict[str, dict[str, list[Any]]]


def read_space(path: Path, recipe: TrainSettings) -> Space:
    """A space from its file.

    Raises:
        BadSpace: it is empty, varies what it may not, or a range is none.
        FileUnusable: there is no such file, or it is not YAML.
    """
    given = read_yaml(path)
    if not given:
        raise BadSpace(f"{path} varies nothing: name a setting and its range, such as learning_rate")
    for name, how in given.items():
        _check_name(name, recipe)
        _check_range(name, how)
    return given


def _check_name(name: str, recipe: TrainSettings) -> None:
    known = names_of(TrainSettings)
    if name not in known:
        near = get_close_matches(str(name), known, n=1)
        raise BadSpace(f"unknown setting {name!r} in the space" + (f": did you mean {near[0]!r}?" if near else ""))
    if name in FIXED or name.split(".")[0] in FIXED:
        raise BadSpace(f"{name} may not vary: trials are compared on the same rows and steps; leave it out")


def names_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all settings of a group."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        inside = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += names_of(kind, f"{prefix}{name}.") if inside else [f"{prefix}{name}"]  # type: ignore[arg-type]
    return found


def _check_range(name: str, how: Any) -> None:
    kinds = ", ".join(KINDS)
    if not isinstance(how, dict) or len(how) != 1 or next(iter(how)) not in KINDS:
        raise BadSpace(f"{name}: say how it varies by one of {kinds}, such as {{choice: [1, 2]}}")
    kind, values = next(iter(how.items()))
    if not isinstance(values, list) or not values:
        raise BadSpace(f"{name}: {kind} takes {KINDS[kind]}")
    if kind == "choice":
        return
    numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    fits = len(values) == len(numbers) == 2 and numbers[0] < numbers[1]
    if not fits or (kind == "log_uniform" and numbers[0] <= 0):
        raise BadSpace(f"{name}: {kind} takes {KINDS[kind]}, the smaller first (a number such as 1e-4 needs its point)")


def draw(space: Space, recipe: TrainSettings, how: SearchSettings) -> list[Trial]:
    """The trials; no two with the same values, and fewer where the space has not so many.

    Raises:
        BadSpace: a draw makes no valid recipe.
    """
    chance = random.Random(how.seed)
    trials: list[Trial] = []
    seen = set()
    for _ in range(20 * how.num_trials):
        values = {name: _drawn(range_, chance) for name, range_ in sorted(space.items())}
        if (key := json.dumps(values)) not in seen and len(trials) < how.num_trials:
            seen.add(key)
            trials.append(Trial(len(trials), values, with_values(recipe, values)))
    return trials


def _drawn(how: Mapping[str, list[Any]], chance: random.Random) -> Any:
    kind, values = next(iter(how.items()))
    if kind == "choice":
        return chance.choice(values)
    low, high = values
    if kind == "integer":
        return chance.randint(low, high)
    if kind == "uniform":
        return chance.uniform(low, high)
    return math.exp(chance.uniform(math.log(low), math.log(high)))


def with_values(recipe: TrainSettings, values: Mapping[str, Any]) -> TrainSettings:
    """A recipe with other values, by dotted name."""
    tree = recipe.model_dump()
    for name, value in values.items():
        *path, last = name.split(".")
        group = tree
        for part in path:
            group = group[part]
        group[last] = value
    try:
        return TrainSettings.model_validate(tree)
    except ValidationError as error:
        raise BadSpace(f"with {json.dumps(dict(values))} {first_fault(error)}") from error


def trial_settings(trial: Trial, how: SearchSettings) -> TrainSettings:
    """The recipe as a trial runs it: one worker, a checkpoint at every rung."""
    workers = trial.settings.workers.model_copy(update={"num_workers": 1, "min_workers": None, "max_workers": None})
    return trial.settings.model_copy(update={"workers": workers, "num_checkpoints": how.num_rungs})


def hold_out(examples: Sequence[Example], share: float, *, sides: int = 1) -> tuple[list[Example], list[Example]]:
    """Examples to learn, and to judge by: new ones whose row's id, or place, falls into the share; at most 512.

    Args:
        sides: examples that make one row, one after another. They share a fate, as do the windows of one context.

    Raises:
        NothingToTrain: one of the two is empty.
    """
    learned: list[Example] = []
    held: dict[str | int, list[Example]] = {}
    for place, example in enumerate(examples):
        row = _row_of(example, place // sides)
        drawn = int(hex_of(digest_json({"row": row}))[:8], 16) / 16**8
        (held.setdefault(row, []) if example.pool == 0 and drawn < share else learned).append(example)
    judged: list[Example] = []
    for parts in held.values():
        if judged and len(judged) + len(parts) > MOST_HELD_OUT:
            break
        judged += parts
    if not judged or not any(example.pool == 0 for example in learned):
        raise NothingToTrain(f"{len(examples)} rows are too few to hold {share:.0%} of them out: search on more")
    return learned, judged


def _row_of(example: Example, place: int) -> str | int:
    return example.row_id or (f"window {example.group}" if example.group >= 0 else place)
