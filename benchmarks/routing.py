"""Routing on recorded outcomes: quality bought per call to a large model, beside length, chance and an oracle.

Two models: the gap recovered as RouteLLM (arXiv 2406.18665) measures it: APGR over 11 shares of calls, CPT(50)
and CPT(80). The router forecasts from the prompt alone, or, where the files hold the small model's answers, after
seeing its answer (a cascade). More than two models: the accuracy kept and the cost, beside the best single model; the
price of a point of accuracy is fixed on the training rows. The guarantee: over many splits of the test rows, how often
the bound on the quality lost was broken on the other part, and how many large calls it saved.

Without ``--test`` the groups (subjects) of ``--train`` are dealt out to ``--folds`` and each is judged by a router that
saw only the others; ``--known`` deals out rows instead. A figure is the mean over the folds.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from app.core.errors import exit_status
from app.routing.outcomes import BadOutcomes, Outcomes
from benchmarks._record import record, write
from benchmarks._routing import Judged, Setup, folds_of, judge, made_up, with_features

app = typer.Typer(add_completion=False)
ROWS = ("signalbox", "length", "random", "oracle")


@app.command()
def main(
    train: Annotated[
        Path | None, typer.Option(help="Outcomes to learn from, JSON lines. Default: a small set made up.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Outcomes to judge on. Default: folds of --train.")] = None,
    prices: Annotated[
        Path | None, typer.Option(help="{model: {input_price: …}}; default: candidates.json beside --train, if any.")
    ] = None,
    small: Annotated[str | None, typer.Option(help="The small model. Default: the best of the cheaper ones.")] = None,
    large: Annotated[str | None, typer.Option(help="The large model. Default: the best on --train.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of --train where there is no --test.")] = 5,
    known: Annotated[bool, typer.Option("--known", help="Test rows are of the groups that --train has.")] = False,
    tolerance: Annotated[float, typer.Option(help="Quality that the guarantee lets go, 0 to 1.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="Confidence of the guarantee.")] = 0.95,
    calibration: Annotated[int, typer.Option(help="Rows that the guarantee is calibrated on, at most half.")] = 2265,
    splits: Annotated[int, typer.Option(min=1, help="Splits that the guarantee is tried on.")] = 200,
    cost_share: Annotated[float, typer.Option(help="Of the best model's cost, what several models may cost.")] = 0.36,
    seed: Annotated[int, typer.Option(help="Of folds, splits and draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
) -> None:
    """Learn a router from outcomes, judge it on others."""
    with exit_status():
        learned = Outcomes.read(train) if train else made_up(seed)
        setup = Setup.of(
            learned, prices=_prices(prices, train), small=small, large=large, tolerance=tolerance,
            confidence=confidence, calibration=calibration, splits=splits, cost_share=cost_share, seed=seed,
        )  # fmt: skip
        asked = Outcomes.read(test) if test else learned
        asked.of(learned.models)
        cascade = setup.small if all(setup.small in rows.answers for rows in (learned, asked)) else None
        seen = with_features(learned, small=cascade)
        pairs = (
            [(seen, with_features(asked, small=cascade))] if test else folds_of(seen, num=folds, known=known, seed=seed)
        )
        judged = [judge(*pair, setup=setup, known=known, num_parts=len(pairs)) for pair in pairs]
        results = summed_up(judged, seed=seed)
        print(table(results), flush=True)
        params = {
            **setup.params(),
            "train": _name(train),
            "test": _name(test),
            "known": known,
            "folds": None if test else folds,
            "rows": len(learned),
            "cascade": bool(cascade),
        }
        ratios = {"apgr_vs_length": results["signalbox"]["apgr"] / results["length"]["apgr"]}
        if out:
            baselines = {name: results[name] for name in ROWS[1:]}
            write(record("routing", params=params, results=results, baselines=baselines, ratios=ratios), out)


def summed_up(judged: Sequence[Judged], *, seed: int) -> dict[str, Any]:
    """Means over the folds, and the interval of APGR's difference to length."""
    results: dict[str, Any] = {
        name: {
            figure: float(np.mean([each.figures(name)[figure] for each in judged]))
            for figure in judged[0].figures(name)
        }
        for name in ROWS
    }
    low, high = _interval(judged, seed=seed)
    results["signalbox"]["apgr_over_length"] = {"low": low, "high": high}
    for part in ("guarantee", "models"):
        parts = [getattr(each, part) for each in judged]
        if parts[0]:
            results[part] = {name: float(np.mean([each[name] for each in parts])) for name in parts[0]}
    return results


def _interval(judged: Sequence[Judged], *, seed: int, num_draws: int = 1000) -> tuple[float, float]:
    """Paired bootstrap: rows are drawn within each fold, the same for both scores."""
    draws, found = np.random.default_rng(seed), []
    for _ in range(num_draws):
        found.append(np.mean([each.over_length(draws.integers(0, len(each), len(each))) for each in judged]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def table(results: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| | APGR | CPT(50) | CPT(80) |", "|---|---:|---:|---:|"]
    for name in ROWS:
        each = results[name]
        lines.append(f"| {name} | {each['apgr']:.3f} | {each['cpt50']:.0%} | {each['cpt80']:.0%} |")
    return "\n".join(lines + _more(results))


def _more(results: dict[str, Any]) -> list[str]:
    over, promised, models = results["signalbox"]["apgr_over_length"], results["guarantee"], results.get("models")
    lines = [
        f"\nAPGR over length's: 95% interval {over['low']:+.3f} to {over['high']:+.3f}.",
        f"Guarantee: broken in {promised['violated']:.1%} of the splits, {promised['saved']:.0%} of large calls saved; "
        f"on other groups {promised['shifted_violated']:.0%} broken, {promised['shifted_violated_voided']:.0%} where "
        f"drift voids it (false alarms of that: {promised['false_alarms']:.0%}).",
    ]
    if models:
        kept, cost = models["accuracy_vs_best"], models["cost_vs_best"]
        lines.append(f"All models: {kept:.1%} of the best single model's accuracy at {cost:.1%} of its cost.")
    return lines


def _prices(given: Path | None, train: Path | None) -> dict[str, float]:
    path = given or (train.parent / "candidates.json" if train else None)
    if path is None or not (given or path.is_file()):
        return {}
    try:
        return {model: float(about["input_price"]) for model, about in json.loads(path.read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadOutcomes(f"{path} holds no prices: give {{model: {{input_price: dollars}}}} as JSON") from error


def _name(path: Path | None) -> str | None:
    return path.name if path else None


if __name__ == "__main__":
    app()
