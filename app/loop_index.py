"""A turn of the loop for the index alone: judge it against the one in production, and propose a release with it.

Guarantees: the models of the proposed release are production's, with the verdicts that brought them in; where nothing
is in production yet, it has none and quotes. Nothing here moves production. Not guaranteed: a release; an index whose
verdict is red has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.governance.evidence import INDEX_VERDICT, TARGET, Evidence, earlier_evaluations
from app.governance.gate import judge
from app.governance.policy import Policy
from app.governance.release import BETWEEN, beside_of, build_release, ladder_of, parts_of, passages_of
from app.governance.stoplights import StopLight, ask_about_release, red_reasons
from app.loop import SYNTHETIC, judge_again, verdict_of
from app.registry.versions import PRODUCTION, Registry, Version, VersionNotFound
from app.retrieval.evaluate import evaluate_index
from app.serving.engines import calibrate_router, grounding_of
from app.settings import SignalboxSettings

FIRST: Mapping[str, Any] = {"prices": {}, "prompt": "", "extractive": True}
"""Facts of a release with which a name begins."""


@dataclass(frozen=True)
class Proposal:
    """A judged index with the release that would serve it; None where a gate is red, and ``stopped`` says which."""

    verdict: Version
    release: Version | None
    stopped: str = ""


def propose_index(
    name: str,
    *,
    index: Version,
    suite: Version,
    policy: Policy,
    registry: Registry,
    settings: SignalboxSettings,
    actor: str = "service",
) -> Proposal:
    """Judge an index; unless the verdict is red, propose a release with it and the models that are in production.

    The first release of a name has no model and quotes the documents.

    Args:
        suite: questions to do well on; the suites of earlier promotions of an index are asked as well.

    Raises:
        NothingToAsk: no question of a suite is about the index.
        ArtifactChanged, RetrieverMismatch: an index or its retriever is not what was published.
    """
    try:
        production = registry.get("release", f"{name}@{PRODUCTION}")
    except VersionNotFound:
        production = None
    verdict = judge_index(index, suite, production=production, policy=policy, registry=registry)
    if verdict.facts["light"] == "red":
        return Proposal(verdict, None)
    judged = _models_again(production, index, registry=registry, settings=settings)
    if red := next((each for each in judged.values() if each.facts["light"] == "red"), None):
        said = f"{red.facts['artifact']['ref']} does worse with its passages: {'; '.join(red_reasons(red))}"
        return Proposal(verdict, None, said)
    release = _build(name, production, index, verdict, judged, registry=registry, settings=settings, actor=actor)
    try:
        ask_about_release(release, verdict=verdict_of(release, registry=registry), registry=registry)
    except StopLight as red:
        return Proposal(verdict, None, str(red))
    return Proposal(verdict, release)


def judge_index(
    index: Version, suite: Version, *, production: Version | None, policy: Policy, registry: Registry
) -> Version:
    """The verdict on an index, by its evaluations and those of the index in production, which are made here."""
    before = registry.get("index", production.facts["index"]) if production else index
    earlier = [each.manifest["inputs"]["suite"] for each in earlier_evaluations(registry, index)]
    others = [registry.get("suite", digest) for digest in dict.fromkeys(earlier) if digest != suite.digest]
    suites = {TARGET: suite} | {each.ref: each for each in others}
    ours, theirs = (
        {label: evaluate_index(each, asked, registry=registry) for label, asked in suites.items()}
        for each in (index, before)
    )
    compared = theirs if before.digest != index.digest else {}
    return judge(
        policy, Evidence.collect(index, registry=registry, candidate=ours, production=compared), registry=registry
    )


def _models_again(
    production: Version | None, index: Version, *, registry: Registry, settings: SignalboxSettings
) -> dict[str, Version]:
    """Verdicts on production's models with the passages that another index gives them, by the verdicts that stood."""
    grounding = grounding_of(index, passages_of(production), registry=registry) if production else None
    if production is None or grounding is None or index.digest == production.facts["index"]:
        return {}
    beside, models = beside_of(production, registry=registry), set(ladder_of(production).values())
    stood = [verdict_of(production, registry=registry), *(each for _, each in beside[BETWEEN].values())]
    stood += [each for label, each in beside.items() if label == "large_verdict"]
    about = [each for each in stood if each.facts["artifact"]["digest"] in models]
    how: dict[str, Any] = {"grounding": grounding, "registry": registry, "settings": settings}
    return {each.digest: judge_again(each, **how) for each in about}


def _build(
    name: str,
    production: Version | None,
    index: Version,
    verdict: Version,
    judged: Mapping[str, Version],
    *,
    registry: Registry,
    settings: SignalboxSettings,
    actor: str,
) -> Version:
    """The release in production with another index; where models serve, their verdict stays the release's own.

    Args:
        judged: verdicts that take the place of others, by their digests.
    """
    parts, facts = (parts_of(production, registry=registry), production.facts) if production else ({}, FIRST)
    small, large, router = (parts.get(part) for part in ("small", "large", "router"))
    about = verdict_of(production, registry=registry) if production and (small or large) else verdict
    about = judged.get(about.digest, about)
    beside = beside_of(production, registry=registry) if production else {}
    beside |= {label: judged.get(each.digest, each) for label, each in beside.items() if label != BETWEEN}
    between = beside.get(BETWEEN, {}).items()
    beside[BETWEEN] = {rung: (model, judged.get(each.digest, each)) for rung, (model, each) in between}
    number = passages_of(production) if production else 0
    return build_release(
        name,
        small=small,
        large=large,
        router=router and _calibrated_anew(router, {"small": small, "large": large}, index, registry, settings, number),
        index=index,
        dataset=registry.get("dataset", index.manifest["inputs"]["dataset"]),
        verdict=about,
        **{**beside, INDEX_VERDICT: verdict},
        policy=registry.get("policy", str(about.stated("inputs", "policy"))),
        prices=facts["prices"],
        prompt=facts["prompt"],
        extractive=facts["extractive"],
        context_passages=number,
        registry=registry,
        actor=actor,
    )


def _calibrated_anew(
    router: Version,
    models: Mapping[str, Version | None],
    index: Version,
    registry: Registry,
    settings: SignalboxSettings,
    context_passages: int,
) -> Version:
    """The router of the same models and rows, for the passages of another index: it looks at what was found.

    One that was trained on outcomes stays: its forecasts and its guarantee do not hold for another index, so that the
    largest model answers until one is trained on outcomes of the new release.
    """
    if SYNTHETIC not in router.manifest["inputs"]:
        return router
    rows = registry.get(SYNTHETIC, router.manifest["inputs"]["synthetic"])
    return calibrate_router(
        small=models["small"],
        large=models["large"],
        index=index,
        synthetic=rows,
        registry=registry,
        settings=settings.routing,
        context_passages=context_passages,
    )
