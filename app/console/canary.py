"""A canary beside production as one HTML page with plots.

Guarantees: the page needs no other file and no network; everything in it is escaped; it shows the figures of
``app.serving.comparison`` and no others. Not guaranteed: that it is of now; it is of when it was written.
"""

from collections.abc import Mapping
from typing import Any

SIDES = ("production", "canary")
MEASURES = {
    "failed": "requests that failed (5xx)",
    "abstained": "quotations where models were asked",
    "score": "feedback, 0 to 1",
    "usd_per_1000": "US dollars for 1,000 answers",
    "latency_s": "seconds an answer",
}
"""What the measures of a comparison are, for people."""


def render_canary(found: Mapping[str, Any], *, at: str) -> str:
    """The page of a comparison; ``at`` is when it was made."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("app.console", "."), undefined=StrictUndefined, autoescape=True)
    page = environment.get_template("canary.html.j2")
    rows = [_row(found, measure) for measure in MEASURES if any(measure in found[side]["figures"] for side in SIDES)]
    return page.render(found=found, at=at, sides=SIDES, rows=rows, plots=_plots(found))


def _row(found: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """A measure with both sides' figures and whether its difference leaves nothing out."""
    apart = found["difference"].get(measure)
    told = [_figure(found[side]["figures"].get(measure)) for side in SIDES]
    differs = bool(apart) and not apart["low"] <= 0 <= apart["high"]
    return {"measure": MEASURES[measure], "figures": told, "difference": _figure(apart), "differs": differs}


def _plots(found: Mapping[str, Any]) -> list[str]:
    from app.console.plots import intervals

    drawn = []
    for measure, label in MEASURES.items():
        figures = {side: found[side]["figures"][measure] for side in SIDES if measure in found[side]["figures"]}
        if len(figures) == len(SIDES):
            drawn.append(intervals(label.capitalize(), "", figures))
    return drawn


def _figure(interval: Mapping[str, float] | None) -> str:
    if not interval:
        return "not known"
    return f"{interval['value']:.4g} [{interval['low']:.4g}, {interval['high']:.4g}]"
