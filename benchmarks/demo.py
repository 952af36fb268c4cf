"""How good, how fast and how cheap is one turn of the loop on the sample handbook?

Plays the demo in a workspace and turns its report into a benchmark file. Baselines stand in the same run: the models
before training, the large model answering everything, the rungs that train nothing. README's table is `table()` of
`benchmarks/results/demo.json`; a test compares them.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.console.report import EVALUATED
from app.core.errors import exit_status
from app.core.workspace import Workspace
from app.demo.story import play
from benchmarks._record import record, write

RESULTS = Path(__file__).parent / "results" / "demo.json"

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    source: Annotated[Path | None, typer.Option(help="Folder of documents; default: the sample handbook.")] = None,
    report: Annotated[Path | None, typer.Option(help="Read this report.json instead of playing the demo.")] = None,
) -> None:
    """Play the demo in a fresh workspace and print its figures."""
    with exit_status():
        figures = figures_of(json.loads(report.read_text()) if report else _played(source))
        print(table(figures))
        if out:
            write(figures, out)


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """A demo's report as a benchmark's figures."""
    evaluation, train, routing = report["evaluation"], report["train"], report["routing"]
    after = {name: pair["after"] for name, pair in evaluation.items()}
    return record(
        "demo",
        params={"source": report["source"], "workers": train["workers"]},
        results={
            "exact_match": after,
            "ladder": report["ladder"],
            "tokens_per_s": train["tokens_per_s"],
            "share_small": routing["share_small"],
            "answered": routing["answered"],
            "drift_alarms": {key: report["drift"][key] for key in ("alarms_before", "alarms_after")},
            "requests": {key: report["requests"][key] for key in ("sent", "failed")},
            "counts": {key: report[key] for key in ("documents", "chunks", "rejected", "synthetic_rows")},
            "verified": {key: report["verify"][key] for key in ("leaves", "artifacts", "files")},
            "duration_s": report["duration_s"],
        },
        baselines={"exact_match": {name: pair["before"] for name, pair in evaluation.items()}},
        ratios={"cost_vs_large_only": {name: phase["cost_ratio"] for name, phase in routing["phases"].items()}},
    )


def table(figures: Mapping[str, Any]) -> str:
    """README's table."""
    results, before = figures["results"], figures["baselines"]["exact_match"]
    matches, costs = results["exact_match"], figures["ratios"]["cost_vs_large_only"]
    counts, alarms, requests = results["counts"], results["drift_alarms"], results["requests"]
    rows = [
        ("documents, chunks, rejected", f"{counts['documents']}, {counts['chunks']}, {counts['rejected']}"),
        ("synthetic rows", f"{counts['synthetic_rows']}"),
        *(
            (f"exact match: {EVALUATED[key]}", f"{_interval(before[key])}, {_interval(matches[key])}")
            for key in matches
        ),
        *((f"ladder: {rung['rung']}", _rung(rung)) for rung in results["ladder"]),
        ("fine-tuning speed, 2 workers", f"{results['tokens_per_s']:,.0f} tokens/s"),
        ("requests with the known answer, before the change", _share(results["answered"]["before the change"])),
        ("the same after the change, and after the promotion", _after(results["answered"])),
        ("share answered by the small model before the change", f"{results['share_small']:.0%}"),
        *((f"cost against the large model alone, {name}", _share(ratio)) for name, ratio in costs.items()),
        ("drift alarms before and after the shift", f"{alarms['alarms_before']}, {alarms['alarms_after']}"),
        ("requests sent, failed", f"{requests['sent']}, {requests['failed']}"),
        ("verified", ", ".join(f"{count} {name}" for name, count in results["verified"].items())),
        ("duration", f"{results['duration_s'] / 60:.1f} minutes on {figures['hardware']['cpus']} cores"),
    ]
    return "\n".join(["| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _played(source: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as folder:
        workspace = Workspace.find(folder)
        play(workspace, source=source)
        report: dict[str, Any] = json.loads((workspace.demo_dir / "report.json").read_text())
        return report


def _after(answered: Mapping[str, float | None]) -> str:
    return f"{_share(answered['after the change'])}, {_share(answered['after the promotion'])}"


def _rung(rung: Mapping[str, Any]) -> str:
    return f"{rung['light']}, exact match {rung['quality']['value']:.3f}, answer held {rung['contains']:.3f}"


def _share(share: float | None) -> str:
    return "not known" if share is None else f"{share:.0%}"


def _interval(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


if __name__ == "__main__":
    app()
