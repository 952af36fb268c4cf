"""A turn of the loop for the router alone: learn it from outcomes, state its guarantee, judge it, propose a release.

Guarantees: the outcomes, and with them the rows, their parts and what is going to be promised, stand in the ledger
before the router does; its guarantee is stated once its version is published; models and index of the proposed release
are production's. Nothing here moves production. Not guaranteed: a release; a router whose verdict is red has none.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.core.digests import digest_json
from app.core.errors import UsageError
from app.core.parquet import write_rows
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.grounding import wanted
from app.governance.guarantees import NoGuarantee, standing_of, state_guarantee
from app.governance.policy import load_policy
from app.governance.release import ROUTER_VERDICT, beside_of, build_release, ladder_of, parts_of, passages_of
from app.governance.stoplights import StopLight, ask_about_release
from app.inference.passages import PASSAGES
from app.ledger.guarantees import PROMISE
from app.ledger.keys import Signer
from app.loop import verdict_of
from app.registry.versions import PRODUCTION, Registry, Version
from app.routing.learn import Learned, calibrate, learn
from app.routing.limits import ModelCard
from app.routing.router import Router
from app.routing.sample import CALIBRATE, HELD_OUT, KIND, LEARN, Sample
from app.routing.settings import RoutingSettings

CODE_VERSION = "router-2"
POLICY = "router"
HELD_OUT_FILE = "held-out.parquet"


class OutcomesDiffer(UsageError):
    """Outcomes of different models or indexes cannot teach one router: name those of one release."""


@dataclass(frozen=True)
class Proposal:
    """A judged router with the release that would serve it; None where a gate is red, and ``stopped`` says which."""

    verdict: Version
    release: Version | None
    stopped: str = ""


def train_router(
    outcomes: Sequence[Version],
    *,
    name: str,
    registry: Registry,
    settings: RoutingSettings,
    again: Version | None = None,
    signer: Signer | None = None,
) -> Version:
    """Publish a router learnt from outcomes, and state its guarantee; one of the same inputs is found again.

    Args:
        outcomes: versions of kind ``outcomes``, all of the same models and index; later ones count where rows repeat.
        again: a router whose forecasts and judge are kept, and only the guarantee is made anew, from rows that it never
            saw: what a shadow sample is for after a drift.
        signer: who states the guarantee; the log's own key by default.

    Raises:
        OutcomesDiffer: they are of different models or indexes, or the router to be calibrated again is of others.
    """
    bound_to = _bound(outcomes)
    inputs = {
        "outcomes": [each.digest for each in outcomes],
        "again": again.digest if again else None,
        "settings": settings.model_dump(mode="json"),
        "code": CODE_VERSION,
        **{"models": {part: each for part, each in bound_to.items() if part != "index"}, "index": bound_to["index"]},
    }
    passages = outcomes[0].facts.get(PASSAGES)
    inputs |= {PASSAGES: passages} if passages else {}
    made = registry.find("router", name, inputs)
    if made is None:
        sample, cards = _sample(outcomes, registry), _cards(outcomes[-1])
        learned = (
            _calibrated(again, sample, cards, bound_to, registry, settings)
            if again
            else learn(sample, settings=settings, cards=cards, bound_to=bound_to)
        )
        made = _publish(name, learned, inputs, outcomes, again, registry, num_rows=len(sample))
    if made.facts.get("guarantee"):
        promise = {field: made.facts[field] for field in PROMISE}
        digests = [each.digest for each in outcomes]
        state_guarantee(made, promise, registry=registry, parents=digests, signer=signer)
    return made


def judge_router(router: Version, *, registry: Registry, policy: str = POLICY) -> Version:
    """The verdict on a router."""
    return judge(load_policy(policy), Evidence.collect(router, registry=registry), registry=registry)


def propose_router(name: str, router: Version, *, registry: Registry, actor: str = "service") -> Proposal:
    """Judge a router; unless the verdict is red, propose production's release with it.

    Raises:
        OutcomesDiffer: it was learnt from other models or another index than production has.
        NoGuarantee: its guarantee is void.
    """
    if router.facts.get("guarantee") and (why := standing_of(registry, router.digest).objection):
        raise NoGuarantee(f"the guarantee of router {router.ref} is void ({why}): make another from fresh outcomes")
    production = registry.get("release", f"{name}@{PRODUCTION}")
    serving = {**ladder_of(production), "index": production.facts["index"]}
    if other := sorted(part for part, digest in router.facts["bound_to"].items() if serving.get(part) != digest):
        said = f"router {router.ref} was learnt with another {', '.join(other)} than {production.ref} has"
        raise OutcomesDiffer(f"{said}: make outcomes of this release, then train one on them")
    if router.stated("inputs", PASSAGES) != wanted(production):
        said = f"router {router.ref} was learnt with other passages before the models than {production.ref} gives them"
        raise OutcomesDiffer(f"{said}: make outcomes of this release, then train one on them")
    verdict = judge_router(router, registry=registry)
    if verdict.facts["light"] == "red":
        return Proposal(verdict, None)
    release = _build(name, production, router, verdict, registry=registry, actor=actor)
    try:
        ask_about_release(release, verdict=verdict_of(release, registry=registry), registry=registry)
    except StopLight as red:
        return Proposal(verdict, None, str(red))
    return Proposal(verdict, release)


def _build(
    name: str, production: Version, router: Version, verdict: Version, *, registry: Registry, actor: str
) -> Version:
    parts, facts = parts_of(production, registry=registry), production.facts
    return build_release(
        name,
        small=parts.get("small"),
        large=parts.get("large"),
        policy=parts.get("policy"),
        index=parts["index"],
        dataset=parts["dataset"],
        router=router,
        verdict=verdict_of(production, registry=registry),
        **{**beside_of(production, registry=registry), ROUTER_VERDICT: verdict},
        prices=facts["prices"],
        prompt=facts["prompt"],
        extractive=facts["extractive"],
        context_passages=passages_of(production),
        registry=registry,
        actor=actor,
    )


def _bound(outcomes: Sequence[Version]) -> dict[str, str]:
    """Digests of the models and the index that outcomes are of, by part."""
    found = [{**each.facts["models"], "index": each.facts["index"]} for each in outcomes]
    passages = [each.facts.get(PASSAGES) for each in outcomes]
    if not found or any(each != found[0] for each in found) or any(each != passages[0] for each in passages):
        refs = ", ".join(each.ref for each in outcomes) or "none"
        raise OutcomesDiffer(f"these outcomes are not of the same models and index ({refs}): name those of one release")
    return found[0]


def _sample(outcomes: Sequence[Version], registry: Registry) -> Sample:
    """All rows, each once, in the order of their hashed ids."""
    samples = [Sample.load(registry.folder(each), each.facts) for each in outcomes]
    rows = {row.row_id: row for sample in samples for row in sample.rows}
    ordered = sorted(rows.values(), key=lambda row: digest_json(row.row_id))
    return replace(samples[0], rows=tuple(ordered))


def _cards(outcomes: Version) -> dict[str, ModelCard]:
    return {rung: ModelCard.from_json(card) for rung, card in outcomes.facts["cards"].items()}


def _calibrated(
    again: Version,
    sample: Sample,
    cards: Mapping[str, ModelCard],
    bound_to: Mapping[str, str],
    registry: Registry,
    settings: RoutingSettings,
) -> Learned:
    """The same forecasts under a new guarantee, from rows the router has not seen; a fifth of them are held out."""
    if again.facts.get("bound_to") != dict(bound_to):
        raise OutcomesDiffer(f"router {again.ref} is not of these models and this index: train one without --again")
    known, seen = Router.load(registry.folder(again)), _seen(again, registry)
    fresh = replace(sample, rows=tuple(row for row in sample.rows if row.row_id not in seen))
    if known.foresight is None or not len(fresh):
        said = "forecasts nothing" if known.foresight is None else "has seen all of these rows"
        raise OutcomesDiffer(f"router {again.ref} {said}: give other outcomes, or train one without --again")
    rows = replace(fresh, rows=(*fresh.part(LEARN).rows, *fresh.part(CALIBRATE).rows))
    return calibrate(replace(known, cards=dict(cards)), rows, held_out=fresh.part(HELD_OUT), settings=settings)


def _seen(router: Version, registry: Registry) -> set[str]:
    """Ids of the rows that a router, and those that it goes back to, were made from."""
    inputs = router.manifest["inputs"]
    rows = _sample([registry.get(KIND, digest) for digest in inputs["outcomes"]], registry).rows
    before = _seen(registry.get("router", inputs["again"]), registry) if inputs["again"] else set()
    return before | {row.row_id for row in rows}


def _publish(
    name: str,
    learned: Learned,
    inputs: Mapping[str, Any],
    outcomes: Sequence[Version],
    again: Version | None,
    registry: Registry,
    *,
    num_rows: int,
) -> Version:
    parents = [each.digest for each in outcomes] + ([again.digest] if again else [])
    parents += [inputs["index"], *inputs["models"].values()]
    with tempfile.TemporaryDirectory() as folder:
        learned.router.save(Path(folder))
        if learned.held_out:
            write_rows(Path(folder) / HELD_OUT_FILE, learned.held_out, schema=_schema(learned.held_out[0]))
        return registry.publish(
            "router",
            name,
            folder=Path(folder),
            inputs=inputs,
            parents=list(dict.fromkeys(parents)),
            facts=_facts(learned, num_rows=num_rows),
        )


def _facts(learned: Learned, *, num_rows: int) -> dict[str, Any]:
    router = learned.router
    stated = router.to_json()
    return {
        "num_rows": num_rows,
        "rungs": {
            rung: {"threshold": each.threshold, "precision_low": each.precision_low, "coverage": each.coverage}
            for rung, each in router.rungs.items()
        },
        "guarantee": stated["guarantee"],
        "bound_to": stated["bound_to"],
        "held_out": learned.figures,
        "forecasts": router.foresight is not None,
        "lacks": list(learned.lacks),
        "cards": stated["cards"],
    }


def _schema(row: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    kinds = {str: pa.string(), float: pa.float64()}
    return pa.schema([(column, kinds[type(value)]) for column, value in row.items()])
