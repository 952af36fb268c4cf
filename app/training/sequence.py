"""How a recipe changes from task to task when tasks are learned one after another. Pure functions, no torch.

Guarantees: the recipe of a task follows from the settings, its place and the number of tasks alone.
"""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from app.core.settings import Settings
from app.training.errors import CannotTrain
from app.training.settings import TrainSettings

OverBudget = Literal["stop", "roll_back"]


class SequenceSettings(Settings):
    """A sequence of tasks that one model learns in turn."""

    keep_first: float = Field(default=0.5, ge=0, le=1)
    """Share of a matrix's singular directions that `osft` keeps in the first task (not with `adaptive`)."""

    keep_last: float = Field(default=0.9, ge=0, le=1)
    """Share that it keeps in the last; in between it rises in a straight line (arXiv 2504.07097, section 3)."""

    rewarm_share: PositiveFloat = 1.0
    """Highest learning rate of each later task, to which it is warmed up again, as a share of the first task's
    (Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train, arXiv 2403.08763)."""

    over_budget: OverBudget = "stop"
    """When a task makes the model forget more than the policy allows: `stop` before it, or `roll_back` it and learn
    the next tasks without it."""

    @model_validator(mode="after")
    def _kept_grows(self) -> Self:
        if self.keep_last < self.keep_first:
            raise ValueError("sequence.keep_last must not be under sequence.keep_first: what is kept only grows")
        return self


def recipe_at(recipe: TrainSettings, how: SequenceSettings, *, place: int, num_tasks: int) -> TrainSettings:
    """The recipe of the task in ``place`` (from 0): its rate, and what `osft` lets learn; `lora` merges its adapters.

    Raises:
        CannotTrain: `head`, whose models cannot be asked the tasks' questions.
        ValueError: `lora` at ZeRO stage 3, where adapters cannot be merged.
    """
    if recipe.recipe == "head":
        raise CannotTrain("a sequence asks its models questions, and a head writes no answer: choose another recipe")
    changes: dict[str, object] = {"learning_rate": recipe.learning_rate * (how.rewarm_share if place else 1.0)}
    if recipe.recipe == "osft":
        share = kept_share(place, num_tasks, first=how.keep_first, last=how.keep_last)
        changes["osft"] = recipe.osft.model_copy(update={"unfreeze_rank_ratio": 1 - share})
    if recipe.recipe == "lora":
        changes["lora"] = recipe.lora.model_copy(update={"merge": True})
    return TrainSettings.model_validate(recipe.model_copy(update=changes).model_dump())


def kept_share(place: int, num_tasks: int, *, first: float, last: float) -> float:
    """Share of the directions kept at the task in ``place`` (from 0): it rises in a straight line."""
    return last if num_tasks == 1 else first + (last - first) * place / (num_tasks - 1)
