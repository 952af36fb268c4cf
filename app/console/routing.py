"""The audit of routing as one HTML page with plots.

Guarantees: the page needs no other file and no network; everything in it is escaped; where a figure is not known, it
says so. Not guaranteed: more than the audit says.
"""

from collections.abc import Mapping
from typing import Any


def render_audit(report: Mapping[str, Any], *, about: str) -> str:
    """The page of a report of ``app.serving.audit``; ``about`` says of which requests it is."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("app.console", "."), autoescape=True)
    page = environment.get_template("routing.html.j2")
    unknown: dict[str, Any] = {"kept": None, "saved": None, "regret": None, "quality": {}}
    report = {**report, "by": [{**unknown, **each} for each in report["by"]]}
    return page.render(
        report={**unknown, **report}, about=about, plots=_plots(report), figure=_figure, percent=_percent
    )


def _plots(report: Mapping[str, Any]) -> list[str]:
    from app.console.plots import intervals, over_weeks

    quality = {name: each["dr"] for name, each in report["quality"].items() if name != "lost" and "dr" in each}
    drawn = [intervals("Cost of 1,000 requests", "US dollars", report["cost_usd_per_1000"])]
    if quality:
        drawn.append(intervals("Mean quality (doubly robust)", "quality, 0 to 1", quality))
    priced = [each for each in report["by"] if each["cost_usd_per_1000"]]
    return drawn + ([over_weeks(priced)] if priced else [])


def _figure(value: Mapping[str, float] | None) -> str:
    if not value:
        return "not known"
    return f"{value['value']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"
