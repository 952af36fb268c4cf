"""Plots of a demo report, a quality report and an audit, as SVG text that a page can hold without a second file.

Guarantees: drawn without a display (matplotlib's Agg figure classes, no pyplot state). Not guaranteed: the same bytes
across matplotlib versions.
"""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ROUTE_COLOURS = {"small": "#2a9d8f", "large": "#e9c46a", "extractive": "#8d99ae"}
ALARM_COLOUR = "#d62828"
CALM_COLOUR = "#457b9d"
WRAP_COLUMNS = 12


def loss_curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Training loss over steps, one line per run. ``curves`` maps a run's name to (step, loss) pairs."""
    figure, axes = _axes("Training loss", "step", "loss (log)")
    for name, points in curves.items():
        axes.plot([point[0] for point in points], [point[1] for point in points], label=name)
    axes.set_yscale("log")
    if curves:
        axes.legend(frameon=False)
    return _svg(figure)


def drift_windows(windows: Sequence[Mapping[str, Any]]) -> str:
    """Number of signals beyond their threshold in each window of requests; alarms in red, the shift marked."""
    figure, axes = _axes("Drift by window of requests", "window", "signals beyond threshold")
    heights = [window["num_signals"] for window in windows]
    colours = [ALARM_COLOUR if window["alarm"] else CALM_COLOUR for window in windows]
    axes.bar(range(1, len(windows) + 1), heights, color=colours)
    first = next((place for place, window in enumerate(windows, 1) if window["shifted"]), None)
    if first:
        axes.axvline(first - 0.5, color="black", linestyle=":", label="traffic shifts")
        axes.legend(frameon=False)
    return _svg(figure)


def routing_share(phases: Mapping[str, Mapping[str, float]]) -> str:
    """Share of requests by the rung that answered, one bar per phase of the story."""
    figure, axes = _axes("Who answered", "", "share of requests")
    bottoms = [0.0] * len(phases)
    for route, colour in ROUTE_COLOURS.items():
        shares = [phase.get(route, 0.0) for phase in phases.values()]
        axes.bar(_wrapped(phases), shares, bottom=bottoms, color=colour, label=route)
        bottoms = [low + share for low, share in zip(bottoms, shares, strict=True)]
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def routing_cost(phases: Mapping[str, Mapping[str, float]]) -> str:
    """Cost per 1000 requests, routed against large-only, one pair of bars per phase."""
    figure, axes = _axes("Cost per 1000 requests", "", "US dollars")
    places = range(len(phases))
    for offset, key, label in ((-0.2, "routed", "routed"), (0.2, "large_only", "large model only")):
        heights = [phase[key] for phase in phases.values()]
        axes.bar([place + offset for place in places], heights, width=0.4, label=label)
    axes.set_xticks(list(places), _wrapped(phases))
    axes.legend(frameon=False)
    return _svg(figure)


def counts(title: str, numbers: Mapping[str, int]) -> str:
    """A bar for each name, the first on top, with its number beside it."""
    figure, axes = _axes(title, "", "")
    bars = axes.barh(list(numbers), list(numbers.values()), color=CALM_COLOUR)
    axes.bar_label(bars, labels=[f"{number:,}" for number in numbers.values()], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return _svg(figure)


def intervals(title: str, label: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """A point for each name with its interval (``value``, ``low``, ``high``), the first on top."""
    figure, axes = _axes(title, label, "")
    names, values = list(figures), list(figures.values())
    below, above = ([abs(each["value"] - each[end]) for each in values] for end in ("low", "high"))
    axes.errorbar([each["value"] for each in values], names, xerr=[below, above], fmt="o", color=CALM_COLOUR, capsize=4)
    axes.invert_yaxis()
    axes.margins(y=0.3)
    return _svg(figure)


def over_weeks(rows: Sequence[Mapping[str, Any]]) -> str:
    """US dollars for 1,000 requests by week, as routed and by the dearest single model; a line for each workload."""
    figure, axes = _axes("Cost of 1,000 requests by week", "", "US dollars")
    weeks = sorted({row["week"] for row in rows})
    for workload in sorted({row["workload"] for row in rows}):
        mine = {row["week"]: row["cost_usd_per_1000"] for row in rows if row["workload"] == workload}
        places = [place for place, week in enumerate(weeks) if week in mine]
        known = [mine[weeks[place]] for place in places]
        axes.plot(places, [each["router"]["value"] for each in known], marker="o", label=f"{workload}, routed")
        dearest = [max(figure["value"] for figure in each.values()) for each in known]
        axes.plot(places, dearest, marker="o", linestyle=":", label=f"{workload}, dearest model only")
    axes.set_xticks(range(len(weeks)), weeks)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _wrapped(names: Iterable[str]) -> list[str]:
    return [textwrap.fill(name, WRAP_COLUMNS) for name in names]


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
