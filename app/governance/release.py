"""A release: the set of versions that serves, under one digest.

Guarantees: every part exists, and the verdict is about one of them. Not guaranteed: that the parts fit one another; the
gates before a release judge that.
"""

import re
from collections.abc import Mapping
from typing import Any

from app.core.errors import UsageError
from app.governance.evidence import INDEX, INDEX_VERDICT
from app.inference.passages import MOST
from app.inference.retrievers import source_of
from app.registry.versions import Registry, Version, VersionNotFound
from app.registry.whole import whole_folder

CODE_VERSION = "release-1"
ADAPTER = "adapter_config.json"
MODEL = "model"
FURTHER = "further"
"""Fact of a release with its models beside small and large, by name; input with the verdicts on them."""
CONTEXT_PASSAGES = "context_passages"
"""Fact of a release whose models are given passages: how many at most. Absent where they are given none."""
BETWEEN = "between"
"""What ``beside_of`` calls the models between small and large."""
RUNG_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
TAKEN = frozenset({"small", "large", "extractive", "encoder", "signalbox", "gateway", "retriever", "reader", "router"})
ROUTER_VERDICT = "router_verdict"
"""Input of a release that names the verdict on its router, where that was trained on outcomes."""
PARTS = ("small", "large", "index", "dataset", "router", "policy")


class ReleaseIncomplete(UsageError):
    """A release needs an index, a dataset and a verdict about one of its parts: name them."""


def build_release(
    name: str,
    *,
    index: Version,
    dataset: Version,
    verdict: Version,
    registry: Registry,
    small: Version | None = None,
    large: Version | None = None,
    router: Version | None = None,
    policy: Version | None = None,
    large_verdict: Version | None = None,
    index_verdict: Version | None = None,
    router_verdict: Version | None = None,
    between: Mapping[str, tuple[Version, Version]] | None = None,
    prices: Mapping[str, float] | None = None,
    prompt: str = "",
    extractive: bool = True,
    context_passages: int = 0,
    actor: str = "service",
) -> Version:
    """Publish a release from its parts; the same parts give the same version.

    Args:
        verdict: about the small model where there is one.
        large_verdict: about the large model, where ``verdict`` is about the small one.
        index_verdict: about the index, or about another that the same retriever made.
        router_verdict: about the router, where it was trained on outcomes.
        between: models between small and large, cheapest first, by names of their own, each with the verdict on it.
        prices: US dollars, such as ``small_usd_per_1k_tokens``.
        prompt: the system prompt, empty for none.
        context_passages: how many of the passages found its models are given; they must have been judged with these.

    Raises:
        ReleaseIncomplete: the verdict is about none of the parts, a model is there without a router, or the number of
            passages is out of range.
    """
    given = dict(zip(PARTS, (small, large, index, dataset, router, policy), strict=True))
    parts = {part: version.digest if version else None for part, version in given.items()}
    further = (("large_verdict", large_verdict), (INDEX_VERDICT, index_verdict), (ROUTER_VERDICT, router_verdict))
    beside = {label: each.digest for label, each in further if each}
    more = between or {}
    _check_further(name, more, small, large)
    behind = [version.digest for pair in more.values() for version in pair]
    named = (*parts.values(), verdict.digest, *beside.values(), *behind)
    parents = list(dict.fromkeys(digest for digest in named if digest))
    if verdict.facts["artifact"]["digest"] not in parents:
        raise ReleaseIncomplete(f"verdict {verdict.ref} is about no part of release {name}: name the judged part's own")
    if (small or large) and router is None:
        raise ReleaseIncomplete(f"release {name} has a model but no router: calibrate one, or leave the models out")
    facts: dict[str, Any] = {**parts, "prompt": prompt, "prices": dict(prices or {}), "extractive": extractive}
    if context_passages:  # absent without, so that older releases keep their digests
        _check_passages(name, context_passages)
        facts[CONTEXT_PASSAGES] = context_passages
    inputs: dict[str, Any] = {**facts, "verdict": verdict.digest, **beside, "code": CODE_VERSION}
    if more:  # a mapping in JSON has no order
        facts[FURTHER] = [[rung, model.digest] for rung, (model, _) in more.items()]
        inputs[FURTHER] = [[rung, model.digest, judged.digest] for rung, (model, judged) in more.items()]
    return registry.publish("release", name, inputs=inputs, parents=parents, facts=facts, actor=actor)


def passages_of(release: Version) -> int:
    """How many of the passages found a release's models are given."""
    return int(release.stated("facts", CONTEXT_PASSAGES) or 0)


def further_of(release: Version) -> dict[str, str]:
    """Digests of a release's models between small and large, cheapest first, by name."""
    stated = release.stated("facts", FURTHER) or []
    return {str(rung): str(digest) for rung, digest in stated}


def beside_of(release: Version, *, registry: Registry) -> dict[str, Any]:
    """What ``build_release`` needs to name models between small and large, and verdicts but the first, once more."""
    stated = release.stated("inputs", FURTHER) or []
    verdicts = {label: release.stated("inputs", label) for label in ("large_verdict", INDEX_VERDICT, ROUTER_VERDICT)}
    found: dict[str, Any] = {label: registry.get("verdict", digest) for label, digest in verdicts.items() if digest}
    models = {rung: (registry.get(MODEL, one), registry.get("verdict", other)) for rung, one, other in stated}
    return found | {BETWEEN: models}


def ladder_of(release: Version) -> dict[str, str]:
    """Digests of all models of a release, cheapest first, by name."""
    small, large = ({part: release.facts[part]} if release.facts.get(part) else {} for part in ("small", "large"))
    return small | further_of(release) | large


def price_name(rung: str) -> str:
    """What a release's prices call a model's: US dollars for 1,000 tokens, prompt and completion alike."""
    return f"{rung}_usd_per_1k_tokens"


def parts_of(release: Version, *, registry: Registry) -> dict[str, Version]:
    """The versions that a release is made of, by part; absent parts are left out."""
    kinds = {"small": MODEL, "large": MODEL}
    digests = {part: release.facts.get(part) for part in PARTS}
    return {part: registry.get(kinds.get(part, part), digest) for part, digest in digests.items() if digest}


def index_verdict_of(release: Version, *, registry: Registry) -> Version | None:
    """The verdict that let a release's index through, its own where that is about an index; None without one."""
    named = [release.stated("inputs", INDEX_VERDICT), release.stated("inputs", "verdict")]
    found = [version for digest in named if (version := _published("verdict", digest, registry))]
    return next((each for each in found if each.stated("facts", "artifact", "kind") == INDEX), None)


def check_served(release: Version, *, registry: Registry) -> None:
    """Hold what would serve against what was published: manifest, models with their bases, index, router, policy.

    With the index goes the retriever that it was made with.
    A part that nobody published is passed over: nothing can be loaded under its digest but what has that digest.

    Raises:
        ArtifactChanged: a file or a manifest is another; it may be swapped weights.
        RetrieverMismatch: the index was made with a retriever that is not in the registry, or another one.
    """
    whole_folder(release, registry)
    for part in PARTS:
        if part == "dataset":  # it does not serve, and may be large; the verdict's replay reads what matters of it
            continue
        version = _published(MODEL if part in ("small", "large") else part, release.facts.get(part), registry)
        if version is None:
            continue
        _check_model(version, registry)
        if part == INDEX:
            source_of(version, registry=registry)
    for digest in further_of(release).values():
        if version := _published(MODEL, digest, registry):
            _check_model(version, registry)


def _check_model(version: Version, registry: Registry) -> None:
    whole_folder(version, registry)
    if ADAPTER in version.manifest["files"] and (base := _published(MODEL, version.facts.get("base"), registry)):
        whole_folder(base, registry)


def _check_passages(name: str, number: int) -> None:
    if not 0 < number <= MOST:
        raise ReleaseIncomplete(f"models of release {name} cannot be given {number} passages: give 0 to {MOST}")


def _check_further(
    name: str,
    further: Mapping[str, tuple[Version, Version]],
    small: Version | None,
    large: Version | None,
) -> None:
    if further and not (small and large):
        raise ReleaseIncomplete(f"release {name} has models between small and large, but not both of these: name them")
    for rung, (model, judged) in further.items():
        if not RUNG_NAME.fullmatch(rung) or rung in TAKEN:
            raise ReleaseIncomplete(
                f"a model of release {name} cannot be called {rung!r}: take another lower-case word"
            )
        if judged.stated("facts", "artifact", "digest") != model.digest:
            raise ReleaseIncomplete(f"verdict {judged.ref} is not about model {model.ref} of release {name}: judge it")


def _published(kind: str, digest: object, registry: Registry) -> Version | None:
    try:
        return registry.get(kind, str(digest)) if digest else None
    except VersionNotFound:
        return None
