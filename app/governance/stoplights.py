"""The gates that stand before a step: data before training, plans before spending, a release before traffic.

Guarantees: a step that asks here goes on only with a verdict on record that is not red; asking again about the same
thing gives the same verdict. Not guaranteed: that a step asks; the gate after it looks for the verdict
(``gate_passed``), and ``put_into_production`` for the release's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.errors import SignalboxError
from app.governance.checks.spending import BY_HAND
from app.governance.evidence import PLAN, Evidence
from app.governance.gate import judge
from app.governance.policy import load_policy
from app.ledger.moves import models_of
from app.registry.versions import Registry, Version

CODE_VERSION = "plan-1"
DATA, RELEASE = "data", "release"


class StopLight(SignalboxError):
    """A gate is red: the message names each red check; mend what it says, or judge by a policy of your own."""

    exit_status = 3


def ask(
    gate: str,
    artifact: Version,
    *,
    registry: Registry,
    policy: str | None = None,
    candidate: Mapping[str, Version] | None = None,
) -> Version:
    """The verdict of a gate on something that is no candidate yet; earlier promotions are not looked at.

    Args:
        policy: a file, or the name of one that comes with Signalbox; by default the one named like the gate.
        candidate: evaluations by label, where the gate looks at some.

    Raises:
        StopLight: the verdict is red.
    """
    found = Evidence(artifact, registry, candidate or {})
    verdict = judge(load_policy(policy or gate), found, registry=registry)
    if verdict.facts["light"] == "red":
        raise StopLight(f"the {gate} gate is red for {artifact.kind} {artifact.ref}: {'; '.join(red_reasons(verdict))}")
    return verdict


def ask_about_release(release: Version, *, verdict: Version, registry: Registry) -> Version:
    """The verdict of the gate before traffic on a release that was built on a candidate's verdict.

    Raises:
        StopLight: it is red.
    """
    if verdict.stated("facts", "gate") == RELEASE and not models_of(release.manifest):
        return verdict
    recorded = verdict.manifest["inputs"].get("evidence")
    if recorded is None:
        raise StopLight(f"the release gate is red for {release.ref}: verdict {verdict.ref} records no evidence")
    candidate, production = (
        {label: registry.get("evaluation", digest) for label, digest in recorded[each].items()}
        for each in ("candidate", "production")
    )
    earlier = tuple(registry.get("evaluation", digest) for digest in recorded["earlier"])
    evidence = Evidence(release, registry, candidate, production, earlier)
    found = judge(load_policy(RELEASE), evidence, registry=registry)
    if found.facts["light"] == "red":
        raise StopLight(f"the release gate is red for {release.ref}: {'; '.join(red_reasons(found))}")
    return found


def publish_plan(
    name: str,
    *,
    cause: str,
    parents: Sequence[Version],
    cost_usd: float,
    spent_usd: float,
    registry: Registry,
    facts: Mapping[str, Any] | None = None,
) -> Version:
    """What a step is going to do and cost, as a version to be judged; the same step again gives the plan there is.

    Args:
        name: kind of step and what it is for, such as ``retraining-assistant``.
        cause: ``by hand``, or the id of the trigger among the parents.
        parents: what it goes on from, first; the trigger; what the figures were taken from.
    """
    inputs = {"cause": cause, "of": parents[0].digest if parents else None, "facts": facts or {}, "code": CODE_VERSION}
    if found := registry.find(PLAN, name, inputs):
        return found
    whole = {"cause": cause, "cost_usd": cost_usd, "spent_usd": spent_usd, **(facts or {})}
    digests = [version.digest for version in parents]
    return registry.publish(PLAN, name, inputs=inputs, parents=digests, facts=whole)


def plan_retraining(
    release: Version, model: Version, *, trigger: str | None, registry: Registry, asked: Mapping[str, Any] | None = None
) -> Version:
    """The plan of a retraining of the model in a release: what it will cost by what it cost last, and why.

    Args:
        asked: what is to be done, such as the content of ``retrain.json``: from now on it stands under a leaf.
    """
    name = f"retraining-{release.name}"
    cause = trigger or BY_HAND
    triggers = [each for each in registry.versions("trigger") if each.manifest["inputs"].get("trigger") == trigger]
    trained = [each for each in registry.versions("model", model.name) if model.digest in each.parents]
    before = [plan for plan in registry.versions(PLAN, name) if release.digest in plan.parents]
    before = [plan for plan in before if plan.facts["cause"] != cause]
    return publish_plan(
        name,
        cause=cause,
        parents=[release, model, *triggers[-1:], *before[-1:], *trained],
        cost_usd=cost_of(trained[-1] if trained else model),
        spent_usd=sum(map(cost_of, trained)),
        registry=registry,
        facts={"trigger": triggers[-1].digest if triggers else None} | ({"asked": dict(asked)} if asked else {}),
    )


def cost_of(model: Version) -> float:
    """US dollars that a model's training cost, as its facts say; 0 where they do not."""
    return float(model.facts.get("train", {}).get("cost_usd", 0.0))


def red_reasons(verdict: Version) -> list[str]:
    """What the red checks of a verdict say."""
    return [f"{check['kind']}: {check['reason']}" for check in verdict.facts["checks"] if check["light"] == "red"]
