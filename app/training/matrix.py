"""What a model knows of each task after each task of a sequence, and the figures of it. Imports no torch.

Sources: average accuracy and forgetting are those of Chaudhry et al. (Riemannian Walk, ECCV 2018), backward and forward
transfer those of Lopez-Paz and Ranzato (GEM, NIPS 2017).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

DARK = 0.6
"""Cells above it are light, and their figures black."""


@dataclass
class Matrix:
    """Accuracies over a sequence: ``rows[i][j]`` is that on task j <= i after task i was learned."""

    tasks: list[str]
    rows: list[list[float]] = field(default_factory=list)

    def average(self) -> float:
        """Mean accuracy on all tasks after the last."""
        return float(np.mean(self.rows[-1]))

    def forgetting(self) -> float:
        """Mean over the earlier tasks of the best accuracy before the last task, less that after it.

        0 for a single task; under 0 where tasks gained to the end. Source: Chaudhry et al. (2018), equations 3 and 4.
        """
        last = len(self.rows) - 1
        lost = [max(row[task] for row in self.rows[task:last]) - self.rows[last][task] for task in range(last)]
        return float(np.mean(lost)) if lost else 0.0

    def backward_transfer(self) -> float:
        """Mean over the earlier tasks of the accuracy after the last task, less that when the task was learned.

        0 for a single task. Source: Lopez-Paz and Ranzato (2017), equation 3.
        """
        last = len(self.rows) - 1
        gained = [self.rows[last][task] - self.rows[task][task] for task in range(last)]
        return float(np.mean(gained)) if gained else 0.0

    def forward_transfer(self, alone: Mapping[str, float]) -> float:
        """Mean over the later tasks of the accuracy when a task was learned, less that of a model of its own.

        What the tasks before gave to a task, or took from its learning. With a head per task a task cannot be judged
        before it is learned (Lopez-Paz and Ranzato's equation 4), so the model of its own is what it is held against.
        """
        gained = [row[-1] - alone[task] for task, row in list(zip(self.tasks, self.rows, strict=True))[1:]]
        return float(np.mean(gained)) if gained else 0.0


def zero_shot_transfer(ahead: Sequence[float], start: Sequence[float]) -> float:
    """Mean over the later tasks of the accuracy just before a task was learned, less that of the model at the start.

    What the tasks before taught of a task. Both are (tasks); the first task counts for nothing, 0 for a single one.
    Source: Lopez-Paz and Ranzato (2017), equation 4.
    """
    gained = np.subtract(ahead[1:], start[1:])
    return float(np.mean(gained)) if gained.size else 0.0


def draw_matrices(panels: Mapping[str, Matrix], path: Path) -> None:
    """Heat maps beside one another: a row after each task, a column for each task; PNG.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(1, len(panels), squeeze=False)[0] if panels else []
    for place, (title, matrix) in zip(places, panels.items(), strict=True):
        size = len(matrix.tasks)
        cells = np.full((size, size), np.nan)
        for after, row in enumerate(matrix.rows):
            cells[after, : len(row)] = row
        place.imshow(cells, vmin=0, vmax=1, cmap="viridis")
        for (after, task), value in np.ndenumerate(cells):
            if task <= after:
                colour = "black" if value > DARK else "white"
                place.text(task, after, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
        place.set_title(title, fontsize=9)
        place.set_xticks(range(size), matrix.tasks, rotation=90, fontsize=7)
        place.set_yticks(range(size), [f"after {task}" for task in matrix.tasks], fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})
