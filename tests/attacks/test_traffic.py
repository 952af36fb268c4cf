"""Attacks on the gate before traffic: models that no gate judged, brought into production past it."""

import pytest

from app.governance.approvals import approve
from app.governance.evidence import Evidence
from app.governance.gate import judge, replay
from app.governance.policy import load_policy, parse_policy
from app.governance.promotion import TrafficRefused, VerdictRefused, promote
from app.governance.release import build_release
from app.governance.stoplights import StopLight, ask_about_release
from app.ledger.verify import verify
from app.loop import build_retrieval_release, put_into_production
from tests.attacks.world import stage
from tests.governance.conftest import PRICES
from tests.governance.test_stoplights import CHUNKS


@pytest.fixture
def play(registry, tmp_path):
    return stage(registry, tmp_path)


def judged(play, model, policy=None, correct=96):
    """A verdict on a model, and the evaluation behind it."""
    evaluation = play.world.evaluation([1] * correct + [0] * (100 - correct), model=model)
    evidence = play.world.evidence(model, candidate={"target": evaluation})
    return judge(policy or play.policy, evidence, registry=play.registry)


def released(play, **changes):
    """A release of a judged small model that the gate before traffic has not seen, approved: ``(release, verdict)``."""
    model, dataset = play.world.model(), play.world.dataset()
    verdict = judged(play, model)
    index = play.registry.publish("index", "handbook", inputs={"d": dataset.digest}, parents=[dataset.digest])
    router = play.registry.publish("router", "handbook", inputs={"m": model.digest}, parents=[model.digest])
    parts = {"small": model, "index": index, "dataset": dataset, "router": router, "verdict": verdict, **changes}
    release = build_release("assistant", prices=PRICES, registry=play.registry, **parts)
    play.approve(release, parts["verdict"], play.world.signer())
    return release, parts["verdict"]


def light(play, release, candidate, policy=None):
    """The gate before traffic on evaluations of somebody's choice."""
    evidence = Evidence(release, play.registry, candidate)
    return judge(policy or load_policy("release"), evidence, registry=play.registry)


def evaluations(play, verdict):
    recorded = verdict.manifest["inputs"]["evidence"]["candidate"]
    return {label: play.registry.get("evaluation", digest) for label, digest in recorded.items()}


def refused(play, release, verdict, says):
    with pytest.raises(TrafficRefused, match=says):
        play.promote(release, verdict)
    assert play.production() is None


def test_a_release_that_the_gate_did_not_see(play):
    release, verdict = released(play)
    refused(play, release, verdict, "has not judged assistant@1")
    ask_about_release(release, verdict=verdict, registry=play.registry)
    play.promote(release, verdict)
    assert play.production() == release.digest
    assert play.faults() == []


def test_a_release_that_the_gate_stopped(play):
    release, verdict = released(play)
    slow = play.world.table(
        [{"question_id": "q", "prediction": "a", "grounded": 1.0}], kind="evaluation", seconds_per_question=99.0
    )
    assert light(play, release, {"target": slow}).facts["light"] == "red"
    refused(play, release, verdict, "is red")


def test_a_laxer_gate_of_somebody_s_own(play):
    release, verdict = released(play)
    values = {"name": "release", "gate": "release", "checks": [{"kind": "complete_lineage"}]}
    assert light(play, release, evaluations(play, verdict), parse_policy(values)).facts["light"] == "green"
    refused(play, release, verdict, "asks less than the shipped policy release .*latency_ceiling is no longer asked")


def test_the_answers_of_a_quicker_model(play):
    release, verdict = released(play)
    other = play.world.evaluation([1] * 100, model=play.world.model())
    assert light(play, release, {"target": other}).facts["light"] == "green"
    refused(play, release, verdict, "by other evaluations than candidate-small@1")


def test_a_made_up_verdict_of_the_gate(play):
    release, verdict = released(play)
    real = light(play, release, evaluations(play, verdict))
    forged = {"inputs": real.manifest["inputs"], "parents": real.parents, "facts": {**real.facts, "read": []}}
    play.registry.publish("verdict", "forged", **forged)
    play.promote(release, verdict)
    (leaf,) = play.registry.ledger.leaves("promotion")
    assert real.digest in leaf.statement.parents, "the made-up one neither carries a promotion nor stands in its way"


def test_nothing_but_a_made_up_verdict_of_the_gate(play):
    release, verdict = released(play, large=play.world.model())
    red = light(play, release, evaluations(play, verdict))
    forged = {"inputs": red.manifest["inputs"], "parents": red.parents, "facts": {**red.facts, "light": "green"}}
    play.registry.publish("verdict", red.name, **forged)
    refused(play, release, verdict, "does not come out the same again")


def test_a_promotion_past_the_gate_is_named(play):
    release, verdict = released(play)
    approval = play.approve(release, verdict, play.world.signer())
    service = play.registry.ledger.signer
    play.registry.ledger.register_key(service.public)
    parents = (verdict.digest, play.policy_version().digest, approval.digest)
    play.force(release, parents, signed=play.signed_move(release, parents, service))
    (fault,) = play.faults()
    assert "no verdict of the gate before traffic about this very release" in fault


# The large model beside the small one


def with_large(play, large, large_verdict=None):
    return released(play, large=large, large_verdict=large_verdict)


def test_a_large_model_that_nobody_judged(play):
    release, verdict = with_large(play, play.world.model())
    with pytest.raises(StopLight, match="no verdict of the candidate gate is about the large model"):
        ask_about_release(release, verdict=verdict, registry=play.registry)
    refused(play, release, verdict, "is red")
    with pytest.raises(StopLight, match="large model"):
        put_into_production(release, registry=play.registry, reason="a test")


@pytest.mark.parametrize(("correct", "found"), [(96, "green"), (84, "amber"), (20, "red")])
def test_a_large_model_is_as_good_as_its_own_verdict(play, correct, found):
    large = play.world.model()
    release, verdict = with_large(play, large, judged(play, large, correct=correct))
    lit = light(play, release, evaluations(play, verdict))
    assert lit.facts["light"] == found
    assert replay(lit, registry=play.registry).same
    if found != "red":
        play.promote(release, verdict)
        assert play.faults() == []


def test_a_large_model_under_another_s_verdict_or_a_laxer_policy(play):
    large = play.world.model()
    release, verdict = with_large(play, large, judged(play, play.world.model()))
    assert light(play, release, evaluations(play, verdict)).facts["light"] == "red"
    lax = parse_policy({"name": "lax", "gate": "candidate", "checks": [{"kind": "complete_lineage"}]})
    release, verdict = with_large(play, large, judged(play, large, lax))
    reasons = [check["reason"] for check in light(play, release, evaluations(play, verdict)).facts["checks"]]
    assert reasons.count("the models of the release were judged by different policies") == 2


def test_the_price_of_the_large_model_counts(play):
    model = play.world.model()
    facts = {"small": model.digest, "prices": {**PRICES, "large_usd_per_1k_tokens": 2.0}}
    release = play.registry.publish("release", "dear", inputs={}, parents=[model.digest], facts=facts)
    checks = light(play, release, {}).facts["checks"]
    (cost,) = [check for check in checks if check["kind"] == "cost_ceiling"]
    assert (cost["light"], cost["figure"]) == ("red", 2.0)


# A release that only quotes


def quoting(play):
    from app.loop import Knowledge

    dataset = play.world.table(
        CHUNKS, kind="dataset", file="chunks.parquet", num_chunks=9, num_documents=1, num_rejected=0
    )
    index = play.registry.publish("index", "handbook", inputs={"d": dataset.digest}, parents=[dataset.digest])
    return Knowledge(dataset, index, dataset)


def test_a_release_that_only_quotes_goes_by_its_own_policy(play):
    release, verdict = build_retrieval_release("assistant", knowledge=quoting(play), registry=play.registry)
    play.approve(release, verdict, play.world.signer())
    play.promote(release, verdict, load_policy("retrieval"))
    assert play.production() == release.digest
    assert play.faults() == []


def test_a_release_that_only_quotes_on_a_model_s_verdict(play):
    """The verdict stands among its parents, but is about nothing that it serves."""
    knowledge = quoting(play)
    model = play.world.model(parents=[knowledge.dataset.digest])
    verdict = judged(play, model)
    parents = [knowledge.dataset.digest, knowledge.index.digest, model.digest, verdict.digest]
    facts = {"index": knowledge.index.digest, "dataset": knowledge.dataset.digest}
    release = play.registry.publish("release", "assistant", inputs={}, parents=parents, facts=facts)
    approval = approve(
        verdict, release, signer=play.world.signer(), printed_name="Jane Doe",
        meaning="approved for production", registry=play.registry,
    )  # fmt: skip
    with pytest.raises(VerdictRefused, match="no part of assistant@1"):
        promote(release, verdict=verdict, registry=play.registry, policy=play.policy, reason="a test")
    service = play.registry.ledger.signer
    play.registry.ledger.register_key(service.public)
    parents = (verdict.digest, play.policy_version().digest, approval.digest)
    play.force(release, parents, signed=play.signed_move(release, parents, service))
    assert any("its verdict is about something else" in str(fault) for fault in verify(play.registry.workspace).faults)
