"""Learn a router from outcomes: a judge and forecasts from one part of the rows, a guarantee from another, figures from
the rest.

Thresholds are laid down by cross-fitted forecasts of the rows that were learnt from; the guarantee's rows choose among
them (``guarantee``), and no row serves twice. What an answer loses counts against the largest model's own answer, and
calls that chance deals out count with the worst that they can lose. Where no model is asked, as what was found is too
far from the question, all that the largest model's answer was worth counts as lost, if it would have gone out.

Guarantees: equal rows and settings give an equal router; with too few rows it says what it lacks and does without.
Not guaranteed: anything for requests of another kind than the rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.routing import router as judging
from app.routing.curves import NoGap, apgr, gap_recovered
from app.routing.foresight import Foresight
from app.routing.guarantee import guarantee, thresholds_of
from app.routing.limits import ModelCard
from app.routing.quality import Forecaster, cross_forecast
from app.routing.router import Router
from app.routing.sample import CALIBRATE, HELD_OUT, LEARN, Sample
from app.routing.settings import RoutingSettings
from app.routing.sight import SIMILARITY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

QUOTED = "extractive"
NEVER = -1.0
ALWAYS = 2.0
MIN_WEAK, WEAK_SHARE = 20, 0.02
"""Gaps that every forecast is above, or below."""


@dataclass(frozen=True)
class Learned:
    """A router, what it did on rows held out (one dict for each), the figures of that, and what it lacks."""

    router: Router
    held_out: list[dict[str, Any]]
    figures: dict[str, Any]
    lacks: tuple[str, ...] = ()


def learn(
    sample: Sample, *, settings: RoutingSettings, cards: Mapping[str, ModelCard], bound_to: Mapping[str, str]
) -> Learned:
    """Learn everything that the rows are enough for.

    Args:
        cards: price and limits of each model.
        bound_to: digests of the models and the index that the rows came from.

    Raises:
        ValueError: there is no row.
    """
    first = sample.part(LEARN)
    judge = Router.fit(judge_rows(first), settings=settings)
    router = replace(judge, cards=dict(cards), abstains=settings.abstain)
    if len(sample.rungs) < 2:
        return Learned(router, [], {}, ("forecasts: one model is no choice",))
    if len(first) < settings.min_forecast_rows:
        said = f"{len(first)} rows to learn from, {settings.min_forecast_rows} are asked for (half of those given)"
        return Learned(router, [], {}, (f"forecasts: {said}", "guarantee: without forecasts there is none"))
    router = replace(router, bound_to=dict(bound_to), foresight=_foresee(first, router, cards))
    return calibrate(router, sample.part(CALIBRATE), held_out=sample.part(HELD_OUT), settings=settings)


def calibrate(router: Router, rows: Sample, *, held_out: Sample, settings: RoutingSettings) -> Learned:
    """The router with a guarantee from rows that it has not seen; figures from others.

    Raises:
        ValueError: it forecasts nothing, so that nothing can be promised.
    """
    import numpy as np

    foresight = router.foresight
    if foresight is None:
        raise ValueError("the router forecasts nothing: train one on more rows")
    router = replace(router, guarantee=None)
    made = guarantee(
        _scores(router, rows),
        _losses(rows),
        thresholds=np.array(foresight.thresholds),
        tolerance=settings.tolerance,
        confidence=settings.guarantee_confidence,
        explored=settings.explore,
        extra=np.where(
            _weak(router, rows),
            _quoted(router, rows),
            settings.explore / len(rows.rungs) * _dealt_out(router, rows),
        ),
    )
    router = replace(router, guarantee=made)
    found = [] if not len(held_out) else _replayed(router, held_out)
    lacks: tuple[str, ...] = ()
    if made.threshold is None:
        lacks = (f"a threshold: on {made.num_rows} rows none keeps the promise, the largest model answers everything",)
    return Learned(router, found, figures_of(found), lacks)


def judge_rows(sample: Sample) -> dict[str, list[judging.Row]]:
    """What the judge of answers learns from, by model: an answer is right from a quality of a half on."""
    return {
        rung: [judging.Row(row.judged[place], row.quality[place] >= 0.5) for row in sample.rows]
        for place, rung in enumerate(sample.rungs)
    }


def figures_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Quality, loss, saving and cost on rows held out; APGR of the forecast before answering, where there is a gap."""
    import numpy as np

    if not rows:
        return {}
    last = rows[0]["last"]
    served, largest, cost, cost_last = (
        np.array([row[name] for row in rows]) for name in ("quality", "quality_last", "cost_usd", "cost_last_usd")
    )
    gap, cheaper = (np.array([row[name] for row in rows]) for name in ("gap", "quality_cheaper"))
    try:
        area = apgr(gap_recovered(gap, cheaper, largest))
    except NoGap:
        area = None
    return {
        "num_rows": len(rows),
        "apgr": area,
        "quality": float(served.mean()),
        "quality_last": float(largest.mean()),
        "lost": float((largest - served).mean()),
        "saved": float(np.mean([row["rung"] != last for row in rows])),
        "cost_vs_last": float(cost.sum() / cost_last.sum()) if cost_last.sum() else None,
    }


def _foresee(rows: Sample, router: Router, cards: Mapping[str, ModelCard]) -> Foresight:
    """Forecasts before and after each answer, the gaps not worth asking, and the thresholds to test."""
    import numpy as np

    how: dict[str, Any] = {"embedded": rows.embedded}
    quality, seen = rows.quality, rows.before
    before = Forecaster.fit(seen, quality, **how)
    crossed = cross_forecast(seen, quality, **how)
    after, gaps, skip = {}, [], {}
    for place, rung in enumerate(rows.rungs[:-1]):
        pair, answered = quality[:, [place, -1]], rows.after(place)
        after[rung] = Forecaster.fit(answered, pair, **how)
        own, last = cross_forecast(answered, pair, **how).T
        gaps.append(last - own)
        useful = _judged(router, rows, place) & (pair[:, 1] <= pair[:, 0])
        skip[rung] = _worth_asking(crossed[:, -1] - crossed[:, place], useful, _price_ratio(rows, place, cards))
    laid_down = tuple(float(each) for each in thresholds_of(np.concatenate(gaps)))
    return Foresight(rows.rungs, before, after, skip, laid_down, _weak_up_to(router, rows))


def _weak_up_to(router: Router, rows: Sample) -> float:
    """The best passage's similarity up to which next to no model's answer was let out and right; -1: there is none.

    At most half of the rows may lie below, at least ``MIN_WEAK`` must; only where refused answers become quotations.
    """
    import numpy as np

    if not router.abstains:
        return NEVER
    places = range(len(rows.rungs))
    lets_out = [_judged(router, rows, place) & (rows.quality[:, place] >= 0.5) for place in places]
    right = np.asarray(np.stack(lets_out).any(axis=0))
    found = rows.before[:, SIMILARITY]
    order = np.argsort(found, kind="stable")[: len(rows) // 2]
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    weak = np.flatnonzero((shares <= WEAK_SHARE) & (np.arange(1, len(order) + 1) >= MIN_WEAK))
    return float(found[order][weak[-1]]) if len(weak) else NEVER


def _quoted(router: Router, rows: Sample) -> "Floats":
    """What is lost at most where the documents are quoted at once (n,): all that the judge would have let out."""
    import numpy as np

    return np.where(_judged(router, rows, len(rows.rungs) - 1), rows.quality[:, -1], 0.0)


def _weak(router: Router, rows: Sample) -> "NDArray[np.bool_]":
    """Rows for which no model is asked (n,)."""
    import numpy as np

    return np.asarray(rows.before[:, SIMILARITY] <= (router.foresight.weak if router.foresight else NEVER))


def _worth_asking(gaps: "Floats", useful: "NDArray[np.bool_]", ratio: float) -> float:
    """The gap up to which asking a model saves most: what is saved where its answer does, less what asking costs."""
    import numpy as np

    if not ratio:
        return ALWAYS
    order = np.argsort(gaps, kind="stable")
    gained = np.cumsum(useful[order] - ratio)
    best = int(gained.argmax())
    if gained[best] <= 0:
        return NEVER
    return ALWAYS if best == len(gaps) - 1 else float(gaps[order][best])


def _price_ratio(rows: Sample, place: int, cards: Mapping[str, ModelCard]) -> float:
    """What asking a model costs as a share of what the last one costs; 0 where no prices are known."""
    own, last = (_costs(rows, each, cards).mean() for each in (place, len(rows.rungs) - 1))
    return float(min(1.0, own / last)) if last else 0.0


def _costs(rows: Sample, place: int, cards: Mapping[str, ModelCard]) -> "Floats":
    """US dollars of each answer of a model (n,)."""
    card = cards.get(rows.rungs[place])
    found: Floats = rows.tokens[:, place] * (card.usd_per_1k_tokens if card else 0.0) / 1000
    return found


def _judged(router: Router, rows: Sample, place: int) -> "NDArray[np.bool_]":
    """Whether the judge lets each answer of a model out (n,)."""
    import numpy as np

    return np.array([router.decide(rows.rungs[place], row.judged[place]).accepted for row in rows.rows], dtype=bool)


def _asked(router: Router, rows: Sample, place: int) -> "NDArray[np.bool_]":
    """Whether a model is worth asking, by the forecast before (n,)."""
    import numpy as np

    if router.foresight is None or router.idle:
        return np.full(len(rows), router.foresight is None)
    before = router.foresight.seen_before.forecast(rows.before)
    skip = router.foresight.skip.get(rows.rungs[place], 1.0)
    return np.asarray(before[:, -1] - before[:, place] <= skip) & ~_weak(router, rows)


def _scores(router: Router, rows: Sample) -> "Floats":
    """The forecast gap after each answer (n, models but the last), infinite where the model may not answer."""
    import numpy as np

    assert router.foresight is not None
    found = []
    for place, rung in enumerate(rows.rungs[:-1]):
        own, last = router.foresight.seen_after[rung].forecast(rows.after(place)).T
        may = _judged(router, rows, place) & _asked(router, rows, place)
        found.append(np.where(may, last - own, np.inf))
    return np.stack(found, axis=1)


def _losses(rows: Sample) -> "Floats":
    quality = rows.quality
    lost: Floats = quality[:, -1:] - quality[:, :-1]
    return lost


def _dealt_out(router: Router, rows: Sample) -> "Floats":
    """What is lost at most where chance puts in each model once (n,): all, where its answer is refused."""
    import numpy as np

    lost, largest = _losses(rows), rows.quality[:, -1]
    each = [np.where(_judged(router, rows, place), lost[:, place], largest) for place in range(lost.shape[1])]
    return np.asarray(np.sum(each, axis=0), dtype=np.float64)


def _replayed(router: Router, rows: Sample) -> list[dict[str, Any]]:
    """What the router would have done with each row."""
    import numpy as np

    assert router.foresight is not None
    takes = np.array([[router.suffices(float(gap)) for gap in gaps] for gaps in _scores(router, rows)])
    ends = np.where(takes.any(axis=1), takes.argmax(axis=1), len(rows.rungs) - 1)
    asked = np.stack([_asked(router, rows, place) for place in range(len(rows.rungs))], axis=1)
    costs = np.stack([_costs(rows, place, router.cards) for place in range(len(rows.rungs))], axis=1)
    asked[np.arange(len(rows)), ends] = True
    paid = np.where(asked & (np.arange(len(rows.rungs)) <= ends[:, None]), costs, 0.0).sum(axis=1)
    before, quality = router.foresight.seen_before.forecast(rows.before), rows.quality
    weak, quoted = _weak(router, rows), quality[:, -1] - _quoted(router, rows)
    return [
        {
            "row_id": row.row_id,
            "rung": QUOTED if weak[number] else rows.rungs[int(ends[number])],
            "last": rows.rungs[-1],
            "quality": float(quoted[number]) if weak[number] else float(quality[number, ends[number]]),
            "quality_last": float(quality[number, -1]),
            "quality_cheaper": float(quality[number, -2]),
            "gap": float(before[number, -1] - before[number, -2]),
            "cost_usd": 0.0 if weak[number] else float(paid[number]),
            "cost_last_usd": float(costs[number, -1]),
        }
        for number, row in enumerate(rows.rows)
    ]
