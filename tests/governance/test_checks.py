"""Each check on evidence that passes, straddles and fails."""

import math

import pytest

from app.governance.checks.comparison import ForgettingBudget, MinMetric, NonInferior
from app.governance.checks.lineage import CompleteLineage
from app.governance.checks.rows import MaxRejectedShare, MinRows
from app.governance.checks.training import LossImproves
from app.governance.evidence import Evidence, EvidenceMissing


@pytest.mark.parametrize(("minimum", "light"), [(90, "green"), (91, "red")])
def test_min_rows(world, minimum, light):
    finding = MinRows(minimum=minimum).judge(world.evidence(world.dataset()))
    assert (finding.light, finding.figure, finding.threshold) == (light, 90, minimum)


@pytest.mark.parametrize(
    ("facts", "maximum", "light"),
    [({}, 0.1, "green"), ({}, 0.09, "red"), ({"num_rows": 0, "num_rejected": 0}, 0.5, "red")],
)
def test_max_rejected_share(world, facts, maximum, light):
    assert MaxRejectedShare(maximum=maximum).judge(world.evidence(world.dataset(**facts))).light == light


@pytest.mark.parametrize(
    ("losses", "min_drop", "light"),
    [
        ((4.0, 0.5), 0.0, "green"),
        ((4.0, 0.5), 0.9, "red"),
        ((4.0, 4.0), 0.0, "red"),
        ((4.0, 5.0), 0.0, "red"),
        (("NaN", "NaN"), 0.0, "red"),
        ((4.0, "Infinity"), 0.0, "red"),
    ],
)
def test_loss_improves(world, losses, min_drop, light):
    finding = LossImproves(min_drop=min_drop).judge(world.evidence(world.model(losses=losses)))
    assert finding.light == light
    assert finding.figure is not None
    assert math.isfinite(finding.figure)


@pytest.mark.parametrize(
    ("correct", "bound", "light"),
    [(95, "low", "green"), (84, "low", "amber"), (84, "value", "green"), (79, "value", "red"), (79, "low", "red")],
)
def test_min_metric(world, correct, bound, light):
    model = world.model()
    evaluation = world.evaluation([1] * correct + [0] * (100 - correct), model=model)
    finding = MinMetric(threshold=0.8, bound=bound).judge(world.evidence(model, candidate={"target": evaluation}))
    assert finding.light == light
    assert finding.inputs == (evaluation.digest,)


def test_a_missing_evaluation_is_named(world):
    model = world.model()
    evidence = world.evidence(model, candidate={"target": world.evaluation([1])})
    with pytest.raises(EvidenceMissing, match="'old'"):
        MinMetric(threshold=0.8, suite="old").judge(evidence)
    with pytest.raises(EvidenceMissing, match="token_f1"):
        MinMetric(threshold=0.8, metric="token_f1").judge(evidence)
    with pytest.raises(EvidenceMissing, match=r"train\.loss_first"):
        LossImproves().judge(world.evidence(world.dataset()))


@pytest.mark.parametrize(("worse", "light"), [(0, "green"), (1, "green"), (8, "amber"), (11, "red"), (40, "red")])
def test_non_inferior(world, worse, light):
    before = world.evaluation([1] * 80 + [0] * 20)
    after = world.evaluation([1] * (80 - worse) + [0] * (20 + worse))
    evidence = world.evidence(world.model(), candidate={"target": after}, production={"target": before})
    assert NonInferior(margin=0.1).judge(evidence).light == light


def test_non_inferior_before_the_first_promotion(world):
    after = world.evaluation([0] * 10)
    assert NonInferior(margin=0.1).judge(world.evidence(world.model(), candidate={"target": after})).light == "green"


def with_earlier(world, artifact, candidate, *earlier):
    return Evidence(artifact, world.registry, candidate, {}, earlier)


@pytest.mark.parametrize(("lost", "light"), [(0, "green"), (4, "amber"), (6, "red"), (50, "red")])
def test_forgetting_is_judged_against_every_earlier_suite(world, lost, light):
    first, second = world.evaluation([1] * 100, prefix="a"), world.evaluation([1] * 100, prefix="b")
    candidate = {
        "target": world.evaluation([1] * 100, prefix="a"),
        "old": world.evaluation([0] * lost + [1] * (100 - lost), prefix="b"),
    }
    evidence = with_earlier(world, world.model(), candidate, first, second)
    finding = ForgettingBudget(budget=0.05).judge(evidence)
    assert finding.light == light
    if lost:
        assert second.ref in finding.reason


@pytest.mark.parametrize(("asked", "light"), [(80, "green"), (79, "red"), (0, "red")])
def test_leaving_hard_questions_out_is_no_way_to_keep_the_budget(world, asked, light):
    earlier = world.evaluation([1] * 100)
    candidate = {"old": world.evaluation([1] * max(asked, 1), prefix="q" if asked else "other")}
    finding = ForgettingBudget(budget=0.05).judge(with_earlier(world, world.model(), candidate, earlier))
    assert finding.light == light


def test_forgetting_against_production_on_a_regression_suite(world):
    production, candidate = {"old": world.evaluation([1] * 50)}, {"old": world.evaluation([0] * 50)}
    evidence = world.evidence(world.model(), candidate=candidate, production=production)
    assert ForgettingBudget(budget=0.05).judge(evidence).light == "red"


def test_nothing_to_forget(world):
    assert ForgettingBudget(budget=0.05).judge(world.evidence(world.model())).light == "green"


def test_complete_lineage(world):
    assert CompleteLineage().judge(world.evidence(world.model())).light == "green"
    orphan = world.model(parents=[])
    assert "no dataset" in CompleteLineage().judge(world.evidence(orphan)).reason
    unknown = world.model(parents=["sha256:" + "0" * 64])
    finding = CompleteLineage().judge(world.evidence(unknown))
    assert finding.light == "red"
    assert "sha256:000" in finding.reason


def test_a_parent_that_is_only_a_signing_key_does_not_count(world):
    signer = world.signer()
    world.registry.ledger.register_key(signer.public)
    assert CompleteLineage(sources=()).judge(world.evidence(world.model(parents=[signer.public.digest]))).light == "red"
