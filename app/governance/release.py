"""A release: the set of versions that serves, under one digest.

Guarantees: every part exists, and the verdict is about one of them. Not guaranteed: that the parts fit one another; the
gates before a release judge that.
"""

from collections.abc import Mapping
from typing import Any

from app.core.errors import UsageError
from app.registry.versions import Registry, Version, VersionNotFound
from app.registry.whole import whole_folder

CODE_VERSION = "release-1"
ADAPTER = "adapter_config.json"
MODEL = "model"
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
    prices: Mapping[str, float] | None = None,
    prompt: str = "",
    extractive: bool = True,
    actor: str = "service",
) -> Version:
    """Publish a release from its parts; the same parts give the same version.

    Args:
        verdict: about the small model where there is one.
        large_verdict: about the large model, where ``verdict`` is about the small one.
        prices: US dollars, such as ``small_usd_per_1k_tokens``.
        prompt: the system prompt, empty for none.

    Raises:
        ReleaseIncomplete: the verdict is about none of the parts, or a model is there without a router.
    """
    given = dict(zip(PARTS, (small, large, index, dataset, router, policy), strict=True))
    parts = {part: version.digest if version else None for part, version in given.items()}
    beside = {"large_verdict": large_verdict.digest} if large_verdict else {}
    parents = [*dict.fromkeys(digest for digest in parts.values() if digest), verdict.digest, *beside.values()]
    if verdict.facts["artifact"]["digest"] not in parents:
        raise ReleaseIncomplete(f"verdict {verdict.ref} is about no part of release {name}: name the judged part's own")
    if (small or large) and router is None:
        raise ReleaseIncomplete(f"release {name} has a model but no router: calibrate one, or leave the models out")
    facts: dict[str, Any] = {**parts, "prompt": prompt, "prices": dict(prices or {}), "extractive": extractive}
    inputs = {**facts, "verdict": verdict.digest, **beside, "code": CODE_VERSION}
    return registry.publish("release", name, inputs=inputs, parents=parents, facts=facts, actor=actor)


def parts_of(release: Version, *, registry: Registry) -> dict[str, Version]:
    """The versions that a release is made of, by part; absent parts are left out."""
    kinds = {"small": MODEL, "large": MODEL}
    digests = {part: release.facts.get(part) for part in PARTS}
    return {part: registry.get(kinds.get(part, part), digest) for part, digest in digests.items() if digest}


def check_served(release: Version, *, registry: Registry) -> None:
    """Hold what would serve against what was published: manifest, models with their bases, index, router, policy.

    A part that nobody published is passed over: nothing can be loaded under its digest but what has that digest.

    Raises:
        ArtifactChanged: a file or a manifest is another; it may be swapped weights.
    """
    whole_folder(release, registry)
    for part in PARTS:
        if part == "dataset":  # it does not serve, and may be large; the verdict's replay reads what matters of it
            continue
        version = _published(MODEL if part in ("small", "large") else part, release.facts.get(part), registry)
        if version is None:
            continue
        whole_folder(version, registry)
        if ADAPTER in version.manifest["files"] and (base := _published(MODEL, version.facts.get("base"), registry)):
            whole_folder(base, registry)


def _published(kind: str, digest: object, registry: Registry) -> Version | None:
    try:
        return registry.get(kind, str(digest)) if digest else None
    except VersionNotFound:
        return None
