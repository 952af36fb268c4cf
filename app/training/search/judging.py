"""What trials are judged by: a figure on held-out rows, and which way it is better. No Ray, no torch.

Guarantees: a figure that is no number counts as the worst; where two trials are alike, the loss decides, unless the
space varies what the loss is measured by.
"""

import math
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from app.core.errors import UsageError
from app.training.heads.settings import Task
from app.training.settings import Recipe, TrainSettings

LOSS, PREFIX = "heldout_loss", "heldout_"
OF_HEADS: dict[Task, tuple[str, ...]] = {
    "classification": ("macro_f1", "accuracy"),
    "multilabel": ("macro_f1", "micro_f1", "exact_match"),
    "token": ("span_f1", "accuracy"),
    "span": ("f1", "exact_match"),
    "score": ("spearman", "mean_absolute_error"),
}
"""Figures of each task beside the loss; the first is the default."""
OF_RECIPES: dict[Recipe, tuple[str, ...]] = {"dpo": ("pair_accuracy",)}
LEAST = (LOSS, "heldout_mean_absolute_error")
"""Figures of which less is better."""
SCALES = "dpo.beta"
"""What multiplies the margins that `dpo`'s loss is made of: losses under different ones are not alike."""


class BadMetric(UsageError):
    """Trials cannot be judged by this figure; the message names those that there are."""


class Judge(NamedTuple):
    """By what, and which way."""

    metric: str
    """As it is named among a model's facts."""
    mode: Literal["min", "max"]
    ties: str | None = LOSS
    """What decides where that is alike; less is better."""

    def score(self, point: Mapping[str, float]) -> float:
        """The figure of a point; the worst where it has none."""
        worst = math.inf if self.mode == "min" else -math.inf
        return point.get(self.metric, worst)

    def rank(self, point: Mapping[str, float]) -> tuple[float, float]:
        """What sorts points, the best first."""
        score = self.score(point)
        return score if self.mode == "min" else -score, point.get(self.ties, math.inf) if self.ties else 0.0


def judge_of(recipe: TrainSettings, metric: str | None, *, varied: Collection[str] = ()) -> Judge:
    """What judges a recipe's trials: the figure that was asked for, else the recipe's or the task's first.

    Args:
        varied: settings that the trials differ by.

    Raises:
        BadMetric: the recipe has no such figure, or it is not alike in all trials.
    """
    found = OF_HEADS[recipe.head.task] if recipe.recipe == "head" else OF_RECIPES.get(recipe.recipe, ())
    known = (*(f"{PREFIX}{name}" for name in found), LOSS)
    metric = metric or known[0]
    if metric not in known:
        whose = f"head ({recipe.head.task})" if recipe.recipe == "head" else recipe.recipe
        raise BadMetric(f"trials of {whose} are not judged by {metric!r}: set search.metric to {' or '.join(known)}")
    scaled = recipe.recipe == "dpo" and SCALES in varied
    if scaled and metric == LOSS:
        raise BadMetric(f"the space varies {SCALES}, which scales {LOSS}: judge by {known[0]}, or leave {SCALES} out")
    return Judge(metric, "min" if metric in LEAST else "max", None if scaled else LOSS)
