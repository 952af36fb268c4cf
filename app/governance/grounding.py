"""Whether a release's models were judged with the passages that it gives them.

Guarantees: with K passages, every model of the release has a verdict, each by evaluations with K passages of the
release's own index as this code renders them, and the router was calibrated so; without, no evaluation had any. Not
guaranteed: that callers who may see more than the public get passages as good.
"""

from collections.abc import Mapping
from typing import Any

from app.governance.release import FURTHER, ladder_of, passages_of
from app.inference.passages import PASSAGES, identity_of
from app.registry.versions import Registry, Version, VersionNotFound


def wanted(release: Version) -> dict[str, Any] | None:
    """What evaluations of a release's models state of passages; None where the models are given none."""
    number = passages_of(release)
    return identity_of(str(release.facts["index"]), number) if number else None


def objection_to(release: Version, verdict: Version, registry: Registry) -> str:
    """Why the verdicts do not carry the passages that a release gives its models; empty where they do."""
    models, asked = ladder_of(release), wanted(release)
    judged = _by_model(release, verdict, registry)
    if asked and (bare := [rung for rung, digest in models.items() if digest not in judged]):
        return f"no verdict is about its model {bare[0]!r}, which is given passages"
    for rung, digest in models.items():
        found = judged.get(digest)
        evidence = found.stated("inputs", "evidence", "candidate") if found else None
        for each in evidence.values() if isinstance(evidence, Mapping) else ():
            evaluation = registry.get("evaluation", each)
            if (stated := evaluation.stated("inputs", PASSAGES)) != asked:
                said = f"evaluation {evaluation.ref} of its model {rung!r} was {_said(stated)}"
                return f"{said}, and the release answers {_said(asked)}"
    return _routers(release, asked, registry)


def _by_model(release: Version, verdict: Version, registry: Registry) -> dict[str, Version]:
    """The verdict on each model, by the model's digest."""
    named = [release.stated("inputs", "large_verdict"), *(each[2] for each in release.stated("inputs", FURTHER) or [])]
    found = [verdict, *(registry.get("verdict", str(digest)) for digest in named if digest)]
    return {str(each.stated("facts", "artifact", "digest")): each for each in found}


def _routers(release: Version, asked: Mapping[str, Any] | None, registry: Registry) -> str:
    """The objection to a router that was calibrated or trained on other answers."""
    try:
        router = registry.get("router", str(release.facts.get("router")))
    except VersionNotFound:
        return ""
    stated = router.stated("inputs", PASSAGES)
    if stated == asked or not ({"synthetic", "outcomes"} & router.manifest["inputs"].keys()):
        return ""
    return f"router {router.ref} was calibrated {_said(stated)}, and the release answers {_said(asked)}"


def _said(stated: Mapping[str, Any] | None) -> str:
    if stated is None:
        return "without passages"
    return f"with {stated['number']} passages of index {str(stated['index']).removeprefix('sha256:')[:12]}"
