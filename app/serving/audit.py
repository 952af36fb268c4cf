"""The counterfactual audit of routing, from the request log: what other policies would have cost, and been worth.

Costs are of every routed request for which a model was asked; rewards are people's scores of what went out (feedback,
review), else the qualities of a shadow sample, whose models answered again offline. A request counts under its
``metadata.workload`` and the ISO week of its time. Which request was explored, and with which probability each model
would have been used, stands in its logged response.

Guarantees: reads, changes nothing; how many requests were routed, explored, rewarded and left out is said, and for how
many no model was asked: those are in no estimate. Not guaranteed: an estimate where nothing was explored: then it is
left out, and a note says so.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.core.statistics import bootstrap_mean
from app.governance.release import ladder_of, price_name
from app.registry.versions import Registry, Version, VersionNotFound
from app.routing.audit import ROUTER, Logged, estimate, grouped
from app.routing.sample import Sample
from app.serving.feedback import Scores, asker_of, last_answered
from app.serving.log import read_log
from app.serving.outcomes import routing_of
from app.serving.release import RELEASE
from app.serving.schema import Routing

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ["request_id", "time", "release", "route", "status", "cost_usd", "request_json", "response_json"]
DEFAULT_WORKLOAD = "default"
MIN_REWARDS = 30
"""Fewest rewards of a workload's week for an estimate of its own."""


@dataclass(frozen=True)
class Request:
    """A routed request."""

    request_id: str
    workload: str
    week: str
    routing: Routing
    route: str
    """What went out: the used model's answer, or a quotation in its place."""

    cost_usd: float
    asked_by: str
    """Digest of the request and its caller, as feedback names it."""

    release: str
    last: bool
    """Whether it is the last that its caller was answered under this id: only of it anything is said."""

    model_costs_usd: Mapping[str, float]
    """What each model alone would have cost: by its own tokens where it was asked, else by those of another."""


def read_requests(registry: Registry, *, since: datetime | None = None, release: str | None = None) -> list[Request]:
    """Routed requests of the log, of one release (by digest) where it is given."""
    prices: dict[str, Mapping[str, float]] = {}
    rows = read_log(registry.workspace.requests_dir, since=since).select(COLUMNS).to_pylist()
    found, last = [], set(map(id, last_answered(rows)))
    for row in rows:
        routing = routing_of(row["response_json"]) if row["status"] == 200 else None
        if routing is None or row["release"] != (release or row["release"]):
            continue
        if row["release"] not in prices:
            prices[row["release"]] = _prices(registry, row["release"])
        found.append(_request(row, routing, prices[row["release"]], last=id(row) in last))
    return found


def rewards_of(requests: Iterable[Request], feedback: Scores, shadow: Sequence[Sample]) -> dict[str, float]:
    """Rewards by request and caller: a person's score of what went out, else the quality of the model's answer that
    did, from a shadow sample; a quotation has none there."""
    known = {row.row_id: dict(zip(each.rungs, row.quality, strict=True)) for each in shadow for row in each.rows}
    found = {}
    for request in (each for each in requests if each.last):
        quality = known.get(request.request_id, {}).get(request.route)
        said = feedback.of(request.request_id, request.asked_by, request.release)
        if (reward := quality if said is None else said) is not None:
            found[request.asked_by or request.request_id] = float(reward)
    return found


def load_shadow(versions: Iterable[Version], registry: Registry) -> list[Sample]:
    """The rows of versions of kind ``outcomes``."""
    return [Sample.load(registry.folder(each), each.facts) for each in versions]


def audit(requests: Sequence[Request], rewards: Mapping[str, float], *, seed: int = 0) -> dict[str, Any]:
    """The report: all requests together, then by workload and week."""
    keys = [f"{each.workload}\t{each.week}" for each in requests]
    groups = grouped(keys) if requests else {}
    by = [
        {"workload": key.split("\t")[0], "week": key.split("\t")[1]}
        | _figures([requests[int(row)] for row in rows], rewards, seed, at_least=MIN_REWARDS)
        for key, rows in groups.items()
    ]
    whole = _figures(requests, rewards, seed, at_least=1)
    return {**whole, "by": by, "notes": _notes(whole)}


def _figures(requests: Sequence[Request], rewards: Mapping[str, float], seed: int, *, at_least: int) -> dict[str, Any]:
    asked = [each for each in requests if each.routing.used]
    rewarded = [each for each in asked if each.last and (each.asked_by or each.request_id) in rewards]
    found: dict[str, Any] = {
        "num_requests": len(requests),
        "num_unasked": len(requests) - len(asked),
        "num_explored": sum(each.routing.explored for each in requests),
        "num_rewarded": len(rewarded),
        "num_void": sum(each.routing.guarantee == "void" for each in requests),
        "cost_usd_per_1000": _costs(asked, seed),
        "quality": {},
    }
    ladder = _ladder(asked)
    if len(rewarded) < at_least or len(ladder) < 2:
        return found
    found["quality"] = estimate(_logged(rewarded, rewards, ladder), seed=seed)
    return found | _compared(found, ladder)


def _compared(found: Mapping[str, Any], ladder: Sequence[str]) -> dict[str, Any]:
    """Quality kept and money saved against always the last model, and regret against the best single one."""
    quality, costs = found["quality"], found["cost_usd_per_1000"]
    values = {name: each["dr"]["value"] for name, each in quality.items() if name != "lost" and "dr" in each}
    last, own = f"always-{ladder[-1]}", values.get(ROUTER)
    if own is None or last not in values:
        return {}
    best = max((name for name in values if name != ROUTER), key=lambda name: values[name])
    dearest = costs[last]["value"]
    return {
        "kept": own / values[last] if values[last] else None,
        "saved": 1 - costs[ROUTER]["value"] / dearest if dearest else None,
        "regret": {"against": best, "value": values[best] - own},
    }


def _costs(requests: Sequence[Request], seed: int) -> dict[str, dict[str, float]]:
    """US dollars for 1,000 requests: as they were routed, and by each model alone."""
    if not requests:
        return {}
    columns = {ROUTER: [each.cost_usd for each in requests]}
    for model in _ladder(requests):
        columns[f"always-{model}"] = [each.model_costs_usd.get(model, 0.0) for each in requests]
    thousand = {name: [1000 * each for each in column] for name, column in columns.items()}
    return {name: bootstrap_mean(column, num_resamples=500, seed=seed).to_dict() for name, column in thousand.items()}


def _ladder(requests: Sequence[Request]) -> tuple[str, ...]:
    """All models of the requests, cheapest first, as the longest list of them has it."""
    longest = max((each.model_costs_usd for each in requests), key=len, default={})
    return tuple(longest)


def _logged(requests: Sequence[Request], rewards: Mapping[str, float], ladder: Sequence[str]) -> Logged:
    import numpy as np

    chances = np.array([[each.routing.propensities.get(model, 0.0) for model in ladder] for each in requests])
    choices = np.array([[float(each.routing.choice == model) for model in ladder] for each in requests])
    used = np.array([ladder.index(each.routing.used) for each in requests])
    forecast: NDArray[np.float64] | None = None
    if all(set(ladder) <= set(each.routing.qualities) for each in requests):
        forecast = np.array([[each.routing.qualities[model] for model in ladder] for each in requests])
    return Logged(
        tuple(ladder),
        used,
        chances,
        choices,
        np.array([rewards[each.asked_by or each.request_id] for each in requests]),
        forecast,
    )


def _request(row: Mapping[str, Any], routing: Routing, prices: Mapping[str, float], *, last: bool) -> Request:
    attempts = {
        each["rung"]: each["num_prompt_tokens"] + each["num_completion_tokens"]
        for each in json.loads(row["response_json"])["signalbox"]["attempts"]
    }
    typical = max(attempts.values(), default=0)
    year, week, _ = row["time"].isocalendar()
    return Request(
        request_id=row["request_id"],
        workload=_workload(row["request_json"]),
        week=f"{year}-W{week:02}",
        routing=routing,
        route=row["route"],
        cost_usd=float(row["cost_usd"] or 0.0),
        asked_by=asker_of(row["response_json"]),
        release=row["release"],
        last=last,
        model_costs_usd={model: attempts.get(model, typical) * price / 1000 for model, price in prices.items()},
    )


def _prices(registry: Registry, release: str) -> dict[str, float]:
    """US dollars for 1,000 tokens of each model of a release, cheapest first, those without a price as they stand."""
    try:
        version = registry.get(RELEASE, release)
    except VersionNotFound:
        return {}
    prices = version.facts.get("prices") or {}
    return {model: float(prices.get(price_name(model), 0.0)) for model in ladder_of(version)}


def _workload(request_json: str | None) -> str:
    try:
        named = json.loads(request_json or "{}")["metadata"]["workload"]
    except (ValueError, KeyError, TypeError):
        return DEFAULT_WORKLOAD
    return str(named).replace("\t", " ")[:100] or DEFAULT_WORKLOAD


def _notes(whole: Mapping[str, Any]) -> list[str]:
    found = []
    if whole["num_unasked"]:
        found.append(
            f"{whole['num_unasked']} requests are in no estimate: no model was asked, the documents were quoted"
        )
    if not whole["num_explored"]:
        found.append("nothing was explored: what another model would have been worth is a guess where it had no chance")
    if not whole["num_rewarded"]:
        found.append("no reward is known: have answers rated by /v1/feedback, or run jobs.train_router --from log")
    for name, each in whole["quality"].items():
        if each.get("num_left_out"):
            found.append(f"{each['num_left_out']} requests are left out for {name}: a model that it uses had no chance")
    return found
