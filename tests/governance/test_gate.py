"""Verdicts: their light, what they record, and that they come out the same again."""

import pytest

from app.governance.findings import Finding, worst
from app.governance.gate import judge, replay, summary
from app.governance.policy import parse_policy


def judged(world, policy, correct=96):
    model = world.model()
    evaluation = world.evaluation([1] * correct + [0] * (100 - correct), model=model)
    return judge(policy, world.evidence(model, candidate={"target": evaluation}), registry=world.registry)


@pytest.mark.parametrize(("correct", "light"), [(96, "green"), (84, "amber"), (50, "red")])
def test_the_light_is_that_of_the_worst_check(world, policy, correct, light):
    verdict = judged(world, policy, correct)
    assert verdict.facts["light"] == light
    assert summary(verdict)[0].startswith(light)
    assert len(summary(verdict)) == 6


@pytest.mark.parametrize(
    ("lights", "light"),
    [(["green", "pending"], "green"), (["green", "amber"], "amber"), (["pending"], "red"), ([], "red")],
)
def test_worst(lights, light):
    assert worst(Finding(each, "") for each in lights) == light


def test_a_verdict_records_figure_threshold_reason_and_inputs(world, policy):
    verdict = judged(world, policy)
    by_kind = {check["kind"]: check for check in verdict.facts["checks"]}
    metric = by_kind["min_metric"]
    assert metric["threshold"] == 0.8
    assert metric["figure"] > 0.8
    assert "exact_match on target: 0.960" in metric["reason"]
    assert metric["inputs"][0] in verdict.parents
    assert by_kind["approvals"]["light"] == "pending"


def test_missing_evidence_is_a_red_check_that_names_it(world, policy):
    model = world.model()
    verdict = judge(policy, world.evidence(model), registry=world.registry)
    reasons = [check["reason"] for check in verdict.facts["checks"] if check["light"] == "red"]
    assert reasons == ["no evaluation on suite 'target' was handed in (there are: none): evaluate it"]


def test_the_same_evidence_gives_the_same_version(world, policy):
    model = world.model()
    evidence = world.evidence(model, candidate={"target": world.evaluation([1] * 10)})
    first = judge(policy, evidence, registry=world.registry)
    assert judge(policy, evidence, registry=world.registry) == first


def test_a_verdict_replays(world, policy):
    verdict = judged(world, policy)
    again = replay(verdict, registry=world.registry)
    assert again.same
    assert again.digest == verdict.digest
    assert again.differences == ()


def test_a_verdict_made_up_does_not_replay(world, policy):
    red = judged(world, policy, correct=10)
    facts = {**red.facts, "light": "green"}
    forged = world.registry.publish(
        "verdict", red.name, inputs=red.manifest["inputs"], parents=red.parents, facts=facts
    )
    again = replay(forged, registry=world.registry)
    assert not again.same
    assert again.differences == ("light: recorded 'green', now 'red'",)


def test_a_verdict_with_one_figure_changed_does_not_replay(world, policy):
    verdict = judged(world, policy)
    facts = verdict.facts
    facts["checks"][1]["figure"] = 0.99
    forged = world.registry.publish(
        "verdict", verdict.name, inputs=verdict.manifest["inputs"], parents=verdict.parents, facts=facts
    )
    again = replay(forged, registry=world.registry)
    assert again.differences == ("min_metric.figure: recorded 0.99, now 0.92",)


def test_a_data_gate(world):
    policy = parse_policy({"name": "data", "gate": "data", "checks": [{"kind": "min_rows", "minimum": 50}]})
    verdict = judge(policy, world.evidence(world.dataset()), registry=world.registry)
    assert verdict.facts["light"] == "green"
    assert verdict.name == "data-handbook"


def test_a_verdict_replays_in_whatever_order_its_evidence_was_handed_in(world, policy):
    model = world.model()
    suites = {"target": world.evaluation([1] * 50), "alpha": world.evaluation([1] * 50, prefix="a")}
    before = {"target": world.evaluation([1] * 50), "alpha": world.evaluation([1] * 50, prefix="a")}
    verdicts = [
        judge(policy, world.evidence(model, candidate=given, production=before), registry=world.registry)
        for given in (suites, dict(reversed(suites.items())))
    ]
    assert verdicts[0].digest == verdicts[1].digest
    assert replay(verdicts[0], registry=world.registry).same
