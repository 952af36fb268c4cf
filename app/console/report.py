"""The demo's report: one dictionary, shown as a table on the terminal, as JSON and as a page with plots.

Guarantees: every figure of the table and the page stands in ``report.json``; files are replaced whole.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.core.files import replace_text
from app.core.statistics import Interval

Report = Mapping[str, Any]

EVALUATED = {
    "first": "held-out questions, small model before and after fine-tuning",
    "new": "new subject, before and after the retraining",
    "old": "old questions, before and after the retraining",
}
"""What the demo's evaluations are, for people."""


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``report.html`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "report.json", json.dumps(report, indent=2))
    replace_text(folder / "report.html", render_page(report))


def render_page(report: Report) -> str:
    """The report as one HTML page that needs no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from app.console import plots

    drawn = [
        plots.loss_curves(report["train"]["curves"]),
        plots.drift_windows(report["drift"]["windows"]),
        plots.routing_share({name: phase["share"] for name, phase in report["routing"]["phases"].items()}),
        plots.routing_cost({name: phase["cost_per_1000_usd"] for name, phase in report["routing"]["phases"].items()}),
    ]
    environment = Environment(loader=PackageLoader("app.console", "."), undefined=StrictUndefined, autoescape=True)
    page = environment.get_template("report.html.j2")
    return page.render(report=report, summary=summary_rows(report), plots=drawn)


def print_summary(report: Report, console: Console) -> None:
    """The summary as a table on the terminal."""
    table = Table("figure", "value", title="Signalbox demo")
    for name, figure in summary_rows(report):
        table.add_row(name, figure)
    console.print(table)


def summary_rows(report: Report) -> list[tuple[str, str]]:
    """(name, figure) of every line of the summary."""
    train, routing, drift = report["train"], report["routing"], report["drift"]
    rows = [
        ("documents, chunks, rejected", f"{report['documents']}, {report['chunks']}, {report['rejected']}"),
        ("synthetic rows", str(report["synthetic_rows"])),
    ]
    if train["curves"]:
        rows += [
            ("training loss, first and last", f"{train['loss_first']:.2f}, {train['loss_last']:.3f}"),
            ("training speed", f"{train['tokens_per_s']:.0f} tokens/s on {train['workers']} workers"),
        ]
    evaluated = report["evaluation"].items()
    rows += [(f"exact match: {EVALUATED.get(name, name)}", _before_after(pair)) for name, pair in evaluated]
    rows += [
        ("ladder", report["recommendation"]),
        ("requests with the known answer", _answered(routing)),
        ("share answered by the small model", _phases(routing, lambda phase: f"{phase['share'].get('small', 0):.0%}")),
        ("cost against the large model alone", _phases(routing, _cost)),
        ("drift alarms before and after the shift", f"{drift['alarms_before']}, {drift['alarms_after']}"),
        ("promotions", ", ".join(f"{each['release']} ({each['light']})" for each in report["promotions"]) or "none"),
        ("requests sent, failed", f"{report['requests']['sent']}, {report['requests']['failed']}"),
        ("evidence", f"{'whole' if report['verify']['ok'] else 'BROKEN'}: {report['verify']['leaves']} leaves"),
        ("duration", f"{report['duration_s']:.0f} s"),
    ]
    return rows


def _phases(routing: Report, show: Callable[[Report], str]) -> str:
    return ", ".join(f"{show(phase)} {name}" for name, phase in routing["phases"].items())


def _answered(routing: Report) -> str:
    shares = {name: share for name, share in routing["answered"].items() if share is not None}
    return ", ".join(f"{share:.0%} {name}" for name, share in shares.items()) or "not known"


def _cost(phase: Report) -> str:
    return "no model serves" if phase["cost_ratio"] is None else f"{phase['cost_ratio']:.0%}"


def _before_after(pair: Mapping[str, Any]) -> str:
    return f"{Interval(**pair['before']).shown()} -> {Interval(**pair['after']).shown()}"
