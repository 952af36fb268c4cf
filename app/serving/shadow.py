"""Shadow: requests that production answered, answered again offline by the large model or by another release.

What is right is what the caller said: the right answer given by `/v1/feedback`, else the answer itself where it was
rated 1; else what production's largest model says, unless that is what a caller rated below 1: such a row is left out.
The sample is taken by a hash of requests' ids; requests with tools, which cannot be asked again alike, are in none.
Two evaluations come of it, of the logged answers and of the others, paired by request, so that the checks that compare
a candidate with production judge them as they stand (policy ``shadow``).

Guarantees: nothing is logged, limited or charged, and nobody waits for it; what is published holds ids and numbers, no
question and no answer; the same sample, releases and feedback are found again. Not guaranteed: passages that only some
callers may see (the search is the public one); that the largest model is right; that rows are alike which feedback
judges and which it does not.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from app.core.digests import digest_json
from app.core.errors import SignalboxError, UsageError
from app.core.parquet import write_rows
from app.core.statistics import bootstrap_mean, paired_bootstrap
from app.evaluation.judge import figures, judge
from app.evaluation.metrics import exact_match
from app.evaluation.schema import METRICS
from app.evaluation.settings import EvaluationSettings
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version
from app.retrieval.filters import PUBLIC
from app.serving.cascade import Answer, Backends, cost_usd
from app.serving.choices import Choices
from app.serving.errors import ApiError
from app.serving.feedback import Scores, asker_of
from app.serving.log import read_log
from app.serving.outcomes import brings_tools, routing_of
from app.serving.plan import plan_of
from app.serving.release import EXTRACTIVE, ROUTED, Release
from app.serving.requests import ChatRequest, Completion, CompletionRequest
from app.serving.settings import ServingSettings
from app.serving.steering import Steering
from app.serving.wrapped import Passing

Item = TypeVar("Item")
CODE_VERSION = "shadow-2"
KIND = "evaluation"
AT_ONCE = 16
COLUMNS = ["request_id", "release", "route", "status", "answer", "cost_usd", "request_json", "response_json"]
ROWS = pa.schema(
    {
        "question_id": pa.string(),
        **dict.fromkeys(METRICS, pa.float64()),
        "agreed": pa.float64(),
        "cost_usd": pa.float64(),
        "route": pa.string(),
        "judged_by": pa.string(),
    }
)
PEOPLE, MODEL, FAILED = "people", "model", "failed"


class NoTraffic(UsageError):
    """There is nothing to answer again: production must have answered routed requests, with a model of its own."""


@dataclass(frozen=True)
class Asked:
    """A logged request: what was asked, what went out, and what people said to be right."""

    request_id: str
    request: Completion
    answer: str
    cost_usd: float
    """Of one choice."""

    route: str
    right: str = ""
    score: float | None = None
    """What the caller said of the answer; None where nobody said anything."""


@dataclass(frozen=True)
class Said:
    """An answer given offline; ``route`` is ``failed`` where there is none."""

    text: str
    cost_usd: float
    route: str
    seconds: float
    num_tokens: int


def sample_of(
    registry: Registry, release: str, *, num: int, since: datetime | None = None, scores: Scores | None = None
) -> tuple[list[Asked], int]:
    """Up to ``num`` routed requests that a release answered, by the order of their hashed ids.

    Returns:
        The requests, and how many were skipped that this version does not read any more.
    """
    said = scores or Scores()
    table = read_log(registry.workspace.requests_dir, since=since).select(COLUMNS)
    rows = [row for row in table.to_pylist() if row["release"] == release and row["status"] == 200]
    rows = [row for row in rows if row["request_json"] and routing_of(row["response_json"])]
    rows = [row for row in rows if not brings_tools(row["request_json"])]
    rows = list({row["request_id"]: row for row in rows}.values())
    rows.sort(key=lambda row: sha256(row["request_id"].encode()).digest())
    found, num_skipped = list[Asked](), 0
    for row in rows:
        if len(found) == num:
            break
        try:
            found.append(_asked(row, said))
        except ValueError:  # pydantic's errors are ValueErrors
            num_skipped += 1
    return found, num_skipped


def request_of(sent: Mapping[str, Any]) -> Completion:
    """A request as it was logged."""
    return (ChatRequest if "messages" in sent else CompletionRequest).model_validate(sent)


async def answer_all(
    asked: Sequence[Asked], release: Release, *, model: str, backends: Backends, settings: ServingSettings
) -> list[Said]:
    """What a release says to requests, in their order, as it would in serving; a request that fails is said to.

    Args:
        model: who is asked: ``signalbox``, the router, or one model by its name.
    """
    steering = Steering.unbound()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(each: Asked) -> Said:
        async with places:
            began_s = time.monotonic()
            try:
                given = await _answer(each.request, release, model, backends, settings, steering)
            except (ApiError, SignalboxError):
                return Said("", 0.0, FAILED, time.monotonic() - began_s, 0)
            tokens = sum(tried.generation.num_completion_tokens for tried in given.tried)
            return Said(given.text, cost_usd(release, given.tried), given.route, time.monotonic() - began_s, tokens)

    return list(await asyncio.gather(*map(one, asked)))


def shadow(
    production: Release,
    other: Release | None,
    asked: Sequence[Asked],
    *,
    registry: Registry,
    backends: Backends,
    serving: ServingSettings,
    settings: EvaluationSettings,
) -> tuple[Version, Version]:
    """Publish the evaluations of what production said to a sample, and of what the other release says.

    Args:
        other: None: production's largest model alone.

    Raises:
        NoTraffic: the sample is empty, or production has no model.
    """
    if not asked or not production.models:
        raise NoTraffic(f"no routed request of {production.ref} is in the log, or it has no model: nothing to compare")
    inputs = _inputs(production, other, asked, settings)
    name = f"traffic-{production.ref.partition('@')[0]}"
    found = [registry.find(KIND, name, {**inputs, "side": side}) for side in ("production", "other")]
    if found[0] and found[1]:
        return found[0], found[1]
    largest, others = asyncio.run(_ask_both(asked, production, other, backends=backends, settings=serving))
    kept = [place for place, (each, said) in enumerate(zip(asked, largest, strict=True)) if _accepted(each, said)]
    if not kept:
        message = (
            f"the largest model of {production.ref} answered none of {len(asked)} requests, or as callers rated down"
        )
        raise NoTraffic(f"{message}: run it again, or have the right answers sent by /v1/feedback")
    asked, largest, others = _at(kept, asked), _at(kept, largest), _at(kept, others)
    logged = [Said(each.answer, each.cost_usd, each.route, 0.0, 0) for each in asked]
    rows = [_judged(asked, said, largest, settings) for said in (logged, others)]
    parents = list(dict.fromkeys(each.digest for each in (production, other) if each))
    publish: dict[str, Any] = {"registry": registry, "name": name, "parents": parents}
    first = _publish(inputs | {"side": "production"}, *rows[0], about={"release": production.digest}, **publish)
    about: dict[str, Any] = {"release": (other or production).digest, "against": first.digest}
    about |= _compared(rows[0][0], rows[1][0], settings)
    publish["parents"] = [*parents, first.digest]
    return first, _publish(inputs | {"side": "other"}, *rows[1], about=about, **publish)


async def _ask_both(
    asked: Sequence[Asked], production: Release, other: Release | None, **how: Any
) -> tuple[list[Said], list[Said]]:
    """What production's largest model says, and what the other release says; the same without one."""
    largest = await answer_all(asked, production, model=list(production.models)[-1], **how)
    return largest, await answer_all(asked, other, model=ROUTED, **how) if other else largest


async def _answer(
    request: Completion,
    release: Release,
    model: str,
    backends: Backends,
    settings: ServingSettings,
    steering: Steering,
) -> Answer:
    asked = replace(request.asked(settings.max_new_tokens), model=model, num_choices=1, stream=False)
    plan = await plan_of(replace(asked, drop=True), release, release.rungs_for(model) or [], backends)
    seen = Passing(backends) if plan.routed else backends
    choices = Choices(plan, lambda place: seen, top_k=release.top_k(settings.top_k), scope=PUBLIC)
    return (await choices.answers(request, steering, authorization=None))[0]


def _asked(row: Mapping[str, Any], scores: Scores) -> Asked:
    sent, asker = json.loads(row["request_json"]), asker_of(row["response_json"])
    score = scores.of(row["request_id"], asker, row["release"])
    right = scores.right.get((asker, row["release"])) or (row["answer"] if score == 1 else "")
    num_paid = 1 if row["route"] == EXTRACTIVE else len(json.loads(row["response_json"])["choices"])
    cost = (row["cost_usd"] or 0.0) / max(num_paid, 1)
    return Asked(row["request_id"], request_of(sent), row["answer"] or "", cost, row["route"], right or "", score)


def _inputs(
    production: Release, other: Release | None, asked: Sequence[Asked], settings: EvaluationSettings
) -> dict[str, Any]:
    said = [[each.request_id, each.answer, each.right, each.score] for each in asked]
    return {
        "model": None,
        "suite": None,
        "traffic": digest_json(sorted(said, key=str)),
        "production": production.digest,
        "other": other.digest if other else None,
        "settings": settings.model_dump(mode="json", include={"confidence", "num_resamples", "seed"}),
        "code": CODE_VERSION,
    }


def _at(places: Sequence[int], values: Sequence[Item]) -> list[Item]:
    return [values[place] for place in places]


def _accepted(asked: Asked, largest: Said) -> list[str]:
    """Answers that count as right; none where no caller gave one, and the largest model failed or says a bad one."""
    if asked.right:
        return [asked.right]
    down = asked.score is not None and asked.score < 1 and exact_match(largest.text, [asked.answer])
    return [] if down or largest.route == FAILED else [largest.text]


def _judged(
    asked: Sequence[Asked], said: Sequence[Said], largest: Sequence[Said], settings: EvaluationSettings
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of one side, by question id, and its figures."""
    pairs = list(zip(asked, said, largest, strict=True))
    questions = [{"question_id": each.request_id, "answers": _accepted(each, top)} for each, _, top in pairs]
    answers = [
        {"question_id": each.request_id, "prediction": one.text, "seconds": one.seconds, "num_tokens": one.num_tokens}
        for each, one, _ in pairs
    ]
    more = {
        each.request_id: {
            "agreed": exact_match(one.text, [each.answer]),
            "cost_usd": one.cost_usd,
            "route": one.route,
            "judged_by": PEOPLE if each.right else MODEL,
        }
        for each, one, _ in pairs
    }
    rows = [{**row, **more[row["question_id"]]} for row in judge(questions, answers)]
    facts = figures(rows, answers, settings=settings)
    routes = [row["route"] for row in rows]
    facts["routes"] = {route: routes.count(route) for route in sorted(set(routes))}
    facts["num_judged_by_people"] = sum(row["judged_by"] == PEOPLE for row in rows)
    facts["usd_per_1000"] = _interval([1000 * row["cost_usd"] for row in rows], settings)
    return [{name: row[name] for name in ROWS.names} for row in rows], facts


def _compared(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], settings: EvaluationSettings
) -> dict[str, Any]:
    """The change from the logged answers to the others, request by request, and how often both say the same."""
    how: dict[str, Any] = {"confidence": settings.confidence, "num_resamples": settings.num_resamples}
    change = {
        name: paired_bootstrap([row[name] for row in before], [row[name] for row in after], **how).to_dict()
        for name in (*METRICS, "cost_usd")
    }
    return {"change": change, "agreement": _interval([row["agreed"] for row in after], settings)}


def _interval(values: Sequence[float], settings: EvaluationSettings) -> dict[str, float]:
    return bootstrap_mean(
        values, confidence=settings.confidence, num_resamples=settings.num_resamples, seed=settings.seed
    ).to_dict()


def _publish(
    inputs: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    *,
    about: Mapping[str, Any],
    registry: Registry,
    name: str,
    parents: Sequence[str],
) -> Version:
    with tempfile.TemporaryDirectory(prefix="shadow-") as folder:
        write_rows(Path(folder) / ROWS_FILE, list(rows), schema=ROWS)
        given: dict[str, Any] = {"inputs": dict(inputs), "parents": list(parents), "facts": {**facts, **about}}
        return registry.publish(KIND, name, folder=Path(folder), **given)
