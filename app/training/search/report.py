"""What became of a search's trials: a table, curves, a plot."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.core.parquet import write_rows
from app.training.search.judging import LOSS, PREFIX, Judge
from app.training.search.space import Trial

TRIALS_FILE, CURVES_FILE, PLOT_FILE = "trials.parquet", "curves.parquet", "trials.png"
TRIALS = pa.schema(
    {
        "number": pa.int64(),
        "values": pa.string(),
        "state": pa.string(),
        "steps": pa.int64(),
        "metric": pa.string(),
        "score": pa.float64(),
        "heldout_loss": pa.float64(),
        "duration_s": pa.float64(),
        "cost_usd": pa.float64(),
    }
)
"""One row per trial; ``values`` is JSON, ``state`` is `whole` or `ended early`, ``score`` is that of ``metric``."""
CURVES = pa.schema({"number": pa.int64(), "step": pa.int64(), "score": pa.float64(), "heldout_loss": pa.float64()})
"""One row per time that a trial was judged."""


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    number: int
    values: dict[str, Any]
    points: list[dict[str, float]]
    """Each time it was judged: `step`, and the held-out figures that are finite numbers."""
    duration_s: float
    cost_usd: float
    is_whole: bool
    """Whether it made all its steps."""

    @property
    def step(self) -> int:
        """How far it came."""
        return int(self.points[-1]["step"]) if self.points else 0

    @property
    def last(self) -> dict[str, float]:
        """Its held-out figures where it ended."""
        return {name: value for name, value in self.points[-1].items() if name != "step"} if self.points else {}

    def figures(self) -> dict[str, float]:
        """Its scores and its price."""
        return {**self.last, "steps": self.step, "duration_s": self.duration_s, "cost_usd": self.cost_usd}

    def facts(self) -> dict[str, Any]:
        """Everything about it, as JSON."""
        return {"values": self.values, "is_whole": self.is_whole, "points": self.points, **self.figures()}


def outcome(trial: Trial, lines: Sequence[Mapping[str, Any]]) -> Outcome:
    """What a trial's notes say; a step that was made twice, after a restart, counts once."""
    rungs = {int(line["step"]): line for line in lines if line["event"] == "rung"}
    points = [{"step": step, **_finite(rungs[step])} for step in sorted(rungs)]
    last = rungs[max(rungs)] if rungs else {"duration_s": 0.0, "cost_usd": 0.0}
    is_whole = bool(points) and points[-1]["step"] == trial.settings.num_steps
    return Outcome(trial.number, trial.values, points, last["duration_s"], last["cost_usd"], is_whole)


def _finite(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.startswith(PREFIX) and math.isfinite(value)}


def best_of(outcomes: Sequence[Outcome], judge: Judge) -> Outcome:
    """Of those that came farthest, the one that is judged best."""
    return min(outcomes, key=lambda each: (-each.step, *judge.rank(each.last), each.number))


def write_trials(outcomes: Sequence[Outcome], best: Outcome, folder: Path, *, title: str, judge: Judge) -> None:
    """Write `trials.parquet`, `curves.parquet` and `trials.png`."""
    rows = [
        {
            "number": each.number,
            "values": json.dumps(each.values, sort_keys=True),
            "state": "whole" if each.is_whole else "ended early",
            "steps": each.step,
            "metric": judge.metric,
            "score": each.last.get(judge.metric),
            "heldout_loss": each.last.get(LOSS),
            "duration_s": each.duration_s,
            "cost_usd": each.cost_usd,
        }
        for each in outcomes
    ]
    curves = [
        {"number": each.number, "step": int(point["step"]), "score": point.get(judge.metric), LOSS: point.get(LOSS)}
        for each in outcomes
        for point in each.points
    ]
    write_rows(folder / TRIALS_FILE, rows, schema=TRIALS)
    write_rows(folder / CURVES_FILE, curves, schema=CURVES)
    _plot(outcomes, best, folder / PLOT_FILE, title, judge)


def _plot(outcomes: Sequence[Outcome], best: Outcome, path: Path, title: str, judge: Judge) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for each in outcomes:
        is_best = each is best
        steps = [point["step"] for point in each.points]
        scores = [point.get(judge.metric, math.nan) for point in each.points]
        look = {"color": "tab:blue" if is_best else "0.7", "zorder": 2 + is_best, "marker": "o", "markersize": 3}
        axes.plot(steps, scores, label=f"best: trial {best.number}" if is_best else None, **look)
    axes.set(title=title, xlabel="step", ylabel=f"{judge.metric} ({judge.mode} is best)")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=100, metadata={"Software": None})
