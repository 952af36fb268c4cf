"""Checks of training, answers, costs, gates and plans: green, amber where there is one, red, and what is missing."""

import re

import pytest

from app.governance.checks.behaviour import (
    AttributionReport,
    BaseCompatible,
    CitedShare,
    GroundingRate,
    RefusalRate,
)
from app.governance.checks.comparison import Improves
from app.governance.checks.cost import Budget, CostCeiling, LatencyCeiling, TrainingBudget
from app.governance.checks.lineage import GatePassed, LicencePresent
from app.governance.checks.spending import CheaperRungs, CoolDown, TriggerEvidence
from app.governance.checks.training import FiniteLoss
from app.governance.evidence import Evidence, EvidenceMissing
from app.governance.gate import judge
from app.governance.policy import parse_policy


@pytest.mark.parametrize(
    ("losses", "light"),
    [([3.0, 0.1], "green"), ([3.0, float("nan"), 0.1], "red"), ([float("inf")], "red"), ([None, 1.0], "red")],
)
def test_finite_loss(world, losses, light):
    model = world.table([{"loss": loss} for loss in losses], kind="model", file="loss.parquet")
    assert FiniteLoss().judge(world.evidence(model)).light == light


@pytest.mark.parametrize(("num", "light"), [(0, "green"), (1, "red")])
def test_what_the_training_states_of_its_curve_is_enough(world, num, light):
    model = world.registry.publish("model", "m", inputs={}, facts={"train": {"num_losses_not_finite": num}})
    assert FiniteLoss().judge(world.evidence(model)).light == light


def test_a_model_without_a_curve(world):
    with pytest.raises(EvidenceMissing, match=r"no table loss\.parquet"):
        FiniteLoss().judge(world.evidence(world.model()))


@pytest.mark.parametrize(
    ("before", "after", "light"),
    [
        ([0] * 50, [1] * 50, "green"),
        ([0] * 50, [1] * 3 + [0] * 47, "amber"),
        ([0] * 50, [0] * 50, "red"),
        ([1] * 50, [0] * 50, "red"),
        ([0.2] * 25 + [0.4] * 25, [0.4] * 25 + [0.5] * 25, "green"),
        ([0.2, 0.4] * 25, [0.5, 0.2] * 25, "amber"),
    ],
)
def test_improves(world, before, after, light):
    evidence = Evidence(
        world.model(),
        world.registry,
        candidate={"target": world.evaluation(after)},
        production={"target": world.evaluation(before)},
    )
    assert Improves().judge(evidence).light == light
    assert Improves(min_gain=1.0).judge(evidence).light == ("green" if after == [1] * 50 else "red")


def test_no_gain_may_be_a_person_s_business(world):
    same = {"target": world.evaluation([1] * 50)}
    assert Improves(no_gain="amber").judge(Evidence(world.model(), world.registry, same, same)).light == "amber"


def test_improvement_needs_production_once_there_is_one(world):
    candidate = {"target": world.evaluation([1])}
    assert Improves().judge(Evidence(world.model(), world.registry, candidate)).light == "green"
    with pytest.raises(EvidenceMissing, match="production was not evaluated"):
        Improves().judge(Evidence(world.model(), world.registry, candidate, earlier=(world.evaluation([0]),)))


# Answers

CHUNKS = [{"chunk_id": "c1", "text": "The fee is 12 euros."}, {"chunk_id": "c2", "text": "Ask Jane Doe."}]


def answers(world, *predictions, **columns):
    """An evidence whose target evaluation gave these answers, over documents of two chunks."""
    dataset = world.table(CHUNKS, kind="dataset", file="chunks.parquet")
    model = world.model(parents=[dataset.digest])
    rows = [{"question_id": str(n), "prediction": text} for n, text in enumerate(predictions)]
    for name, values in columns.items():
        rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
    return world.evidence(model, candidate={"target": world.table(rows, kind="evaluation", name="e")})


@pytest.mark.parametrize(
    ("num", "maximum", "light"), [(0, 0.05, "green"), (0, 0.03, "amber"), (5, 0.05, "amber"), (6, 0.05, "red")]
)
def test_refusal_rate(world, num, maximum, light):
    refusals = ["", "I don't know.", "I could not find this in the documents.", None, "I cannot answer that", "  "]
    evidence = answers(world, *refusals[:num], *["12 euros"] * (100 - num))
    assert RefusalRate(maximum=maximum).judge(evidence).light == light


@pytest.mark.parametrize(("num", "light"), [(0, "green"), (8, "amber"), (11, "red")])
def test_grounding_is_word_for_word(world, num, light):
    evidence = answers(world, *["1 euros"] * num, *["12 Euros", "jane doe!"] * 50, *["12 euros"] * (-num % 2))
    finding = GroundingRate(minimum=0.905).judge(evidence)
    assert finding.light == light
    assert len(finding.inputs) == 2


def test_a_column_says_it_where_there_is_one(world):
    evidence = answers(world, *["nowhere"] * 40, grounded=[True] * 40)
    assert GroundingRate(minimum=0.9).judge(evidence).light == "green"


def test_a_citation_must_hold_the_answer(world):
    right, cited = ["12 euros"] * 40, [[{"chunk_id": "c1"}]] * 40
    assert CitedShare(minimum=0.9).judge(answers(world, *right, citations=cited)).light == "green"
    other = [[{"chunk_id": "c2"}]] * 40
    assert CitedShare(minimum=0.9).judge(answers(world, *right, citations=other)).light == "red"
    some = [["c1"]] * 37 + [["none"]] * 3
    assert CitedShare(minimum=0.9).judge(answers(world, *right, citations=some)).light == "amber"
    with pytest.raises(EvidenceMissing, match="citations"):
        CitedShare(minimum=0.9).judge(answers(world, *right))


@pytest.mark.parametrize("check", [RefusalRate(maximum=0.1), GroundingRate(minimum=0.9), CitedShare(minimum=0.9)])
def test_without_answers_there_is_nothing_to_judge(world, check):
    model = world.model()
    with pytest.raises(EvidenceMissing, match="no evaluation"):
        check.judge(world.evidence(model))
    with pytest.raises(EvidenceMissing, match="prediction"):
        check.judge(world.evidence(model, candidate={"target": world.table([{"question_id": "q"}], kind="evaluation")}))


def test_attribution_report(world):
    model, other = world.model(), world.model()
    reports = [world.registry.publish("report", "r", inputs={}, parents=[each.digest]) for each in (model, other)]
    lights = [AttributionReport().judge(world.evidence(model, others={"attribution": each})).light for each in reports]
    assert lights == ["green", "red"]
    with pytest.raises(EvidenceMissing, match="'attribution'"):
        AttributionReport().judge(world.evidence(model))


def test_base_compatible(world):
    base = world.model()

    def model(parents):
        return world.registry.publish("model", "m", inputs={"p": parents}, parents=parents, facts={"base": base.digest})

    made, orphan = model([base.digest]), model([])
    with pytest.raises(EvidenceMissing, match="compatibility"):
        BaseCompatible().judge(world.evidence(made))
    lights = []
    for about, num_failed in ((made, 0), (made, 1), (base, 0)):
        facts = {"num_failed": num_failed}
        report = world.registry.publish("report", "c", inputs=facts, parents=[about.digest], facts=facts)
        lights.append(BaseCompatible().judge(world.evidence(made, others={"compatibility": report})).light)
    assert lights == ["green", "red", "red"]
    assert BaseCompatible().judge(world.evidence(orphan)).light == "red"
    start = world.registry.publish("model", "m", inputs={}, facts={"base": None})
    assert BaseCompatible().judge(world.evidence(start)).light == "green"


def test_without_a_report_the_files_tell(world):
    def model(**files):
        folder = world.folder()
        for name, text in files.items():
            (folder / f"{name}.json").write_text(text)
        base = made[0] if made else None
        facts, parents = {"base": base.digest if base else None}, [base.digest] if base else []
        inputs = {"n": world.count}
        made.append(world.registry.publish("model", "m", folder=folder, inputs=inputs, parents=parents, facts=facts))
        return BaseCompatible().judge(world.evidence(made[-1]))

    made = []
    model(tokenizer="a", config="c")
    assert model(tokenizer="a", config="c").reason == "config.json, tokenizer.json of m@2 are those of m@1"
    assert model(tokenizer="a").light == "green"
    other = model(tokenizer="b", config="c")
    assert (other.light, other.reason) == ("red", "tokenizer.json of m@4 differ from m@1")


# Costs


@pytest.mark.parametrize(("maximum_s", "light"), [(2.0, "green"), (1.9, "red")])
def test_latency_ceiling(world, maximum_s, light):
    evaluation = world.registry.publish("evaluation", "e", inputs={}, facts={"seconds_per_question": 2.0})
    evidence = world.evidence(world.model(), candidate={"target": evaluation})
    assert LatencyCeiling(maximum_s=maximum_s).judge(evidence).light == light
    with pytest.raises(EvidenceMissing, match="p99"):
        LatencyCeiling(maximum_s=1, fact="p99").judge(evidence)


@pytest.mark.parametrize(("maximum_usd", "light"), [(0.2, "green"), (0.19, "red")])
def test_the_dearest_price_counts(world, maximum_usd, light):
    release = world.registry.publish("release", "r", inputs={}, facts={"prices": {"small": 0.1, "large": 0.2}})
    check = CostCeiling(facts=("prices.small", "prices.large"), maximum_usd=maximum_usd)
    finding = check.judge(world.evidence(release))
    assert (finding.light, finding.figure) == (light, 0.2)
    with pytest.raises(EvidenceMissing, match=r"prices\.huge"):
        CostCeiling(facts=("prices.huge",), maximum_usd=1).judge(world.evidence(release))


def plan(world, *, parents=(), name="retraining-assistant", **facts):
    world.count += 1
    inputs = {"n": world.count}
    facts = {"cause": "by hand", "cost_usd": 0.5, "spent_usd": 0.4} | facts
    return world.registry.publish("plan", name, inputs=inputs, parents=list(parents), facts=facts)


@pytest.mark.parametrize(("maximum_usd", "light"), [(0.9, "green"), (0.89, "red")])
def test_budget_counts_what_was_spent(world, maximum_usd, light):
    assert Budget(maximum_usd=maximum_usd).judge(world.evidence(plan(world))).light == light
    assert Budget(maximum_usd=1.0).judge(world.evidence(plan(world, cost_usd=-5.0))).light == "red"
    with pytest.raises(EvidenceMissing, match="cost_usd"):
        Budget(maximum_usd=1).judge(world.evidence(world.model()))


@pytest.mark.parametrize(
    ("limits", "light", "figure", "message"),
    [
        (
            {"maximum_usd": 0.5, "maximum_minutes": 4},
            "green",
            0.5,
            r"\$0.2, 2 minutes expected, within \$0.5, 4 min",
        ),
        ({"maximum_usd": 0.1}, "red", 2.0, r"\$0.2 expected, at most \$0.1 allowed: fewer, or raise maximum_usd"),
        ({"maximum_usd": 0}, "red", 2.0, r"at most \$0 allowed"),
        ({"maximum_minutes": 1}, "red", 2.0, "at most 1 minutes allowed: raise maximum_minutes"),
        ({"maximum_memory_bytes": 10**9}, "red", 3.0, "3 GB a worker expected, at most 1 GB"),
    ],
)
def test_training_budget(world, limits, light, figure, message):
    needs = {"cost_usd": 0.2, "duration_s": 120.0, "memory_bytes": 3 * 10**9}
    stated = world.evidence(plan(world, estimate=needs, to_need_less={"usd": "fewer"}))
    found = TrainingBudget(**limits).judge(stated)
    assert (found.light, found.figure) == (light, figure)
    assert re.search(message, found.reason)
    odd = plan(world, estimate={name: float("-1") for name in needs})
    assert TrainingBudget(**limits).judge(world.evidence(odd)).light == "red"
    with pytest.raises(EvidenceMissing, match=r"states no estimate\."):
        TrainingBudget(**limits).judge(world.evidence(plan(world)))


def test_a_training_budget_limits_something():
    with pytest.raises(ValueError, match="needs maximum_usd, maximum_minutes or maximum_memory_bytes"):
        TrainingBudget()


# Plans


def alarm(world, *signals, alarm=True):
    world.count += 1
    facts = {"alarm": alarm, "signals": list(signals)}
    return world.registry.publish("trigger", "assistant", inputs={"n": world.count}, facts=facts)


@pytest.mark.parametrize(
    ("signals", "alarmed", "light"), [("ab", True, "green"), ("a", True, "red"), ("ab", False, "red")]
)
def test_trigger_evidence(world, signals, alarmed, light):
    trigger = alarm(world, *signals, alarm=alarmed)
    evidence = world.evidence(plan(world, cause="trigger-1", parents=[trigger.digest]))
    assert TriggerEvidence().judge(evidence).light == light


def test_a_person_needs_no_alarm_and_a_trigger_must_be_on_record(world):
    assert TriggerEvidence().judge(world.evidence(plan(world))).light == "green"
    with pytest.raises(EvidenceMissing, match="no trigger is behind"):
        TriggerEvidence().judge(world.evidence(plan(world, cause="trigger-1")))


def test_cool_down(world):
    first = plan(world, cause="trigger-1")
    second = plan(world, cause="trigger-2", parents=[first.digest])
    by_hand = plan(world, parents=[second.digest])
    lights = [CoolDown(min_minutes=30).judge(world.evidence(each)).light for each in (first, second, by_hand)]
    assert lights == ["green", "red", "green"]
    assert CoolDown(min_minutes=0).judge(world.evidence(second)).light == "green"


def rung(world, suite, low):
    world.count += 1
    facts = {"exact_match": {"value": low, "low": low, "high": 1.0}}
    inputs = {"n": world.count, "suite": suite.digest}
    return world.registry.publish("evaluation", "rung", inputs=inputs, parents=[suite.digest], facts=facts)


def test_cheaper_rungs(world):
    suite, other = (world.table([{"question": name}], kind="suite", name=name) for name in "ab")
    deeper = plan(world, cheaper=["prompt", "retrieval"], name="escalation-lora")

    def light(**rungs):
        return CheaperRungs(target=0.8).judge(world.evidence(deeper, candidate=rungs)).light

    poor = rung(world, suite, 0.1)
    assert light(prompt=poor, retrieval=rung(world, suite, 0.5)) == "green"
    assert light(prompt=poor, retrieval=rung(world, suite, 0.8)) == "amber"
    assert light(prompt=poor, retrieval=rung(world, other, 0.5)) == "red"
    with pytest.raises(EvidenceMissing, match="'retrieval'"):
        light(prompt=poor)
    assert CheaperRungs().judge(world.evidence(plan(world, cheaper=[]))).light == "green"


# Gates before this one


def verdict(world, artifact, *, minimum=1, gate="data"):
    values = {"name": gate, "gate": gate, "checks": [{"kind": "min_rows", "minimum": minimum}]}
    return judge(parse_policy(values), world.evidence(artifact), registry=world.registry)


def test_gate_passed(world):
    data, other = world.dataset(), world.dataset()
    model = world.model(parents=[data.digest])
    check = GatePassed(gate="data")

    def light(given):
        return check.judge(world.evidence(model, others={"data": given})).light

    assert light(verdict(world, data)) == "green"
    assert light(verdict(world, data, minimum=1000)) == "red"
    assert light(verdict(world, other)) == "red"
    assert light(verdict(world, data, gate="candidate")) == "red"
    with pytest.raises(EvidenceMissing, match="data gate"):
        check.judge(world.evidence(model))


def test_a_gate_before_that_was_made_up_does_not_count(world):
    data = world.dataset()
    red = verdict(world, data, minimum=1000)
    facts = {**red.facts, "light": "green"}
    forged = world.registry.publish(
        "verdict", red.name, inputs=red.manifest["inputs"], parents=red.parents, facts=facts
    )
    evidence = world.evidence(world.model(parents=[data.digest]), others={"data": forged})
    finding = GatePassed(gate="data").judge(evidence)
    assert finding.light == "red"
    assert "does not come out the same again (light: recorded 'green', now 'red'" in finding.reason


def test_a_verdict_among_the_parents_is_found(world):
    model = world.model()
    values = {"name": "candidate", "gate": "candidate", "checks": [{"kind": "complete_lineage"}]}
    found = judge(parse_policy(values), world.evidence(model), registry=world.registry)
    release = world.registry.publish("release", "r", inputs={}, parents=[model.digest, found.digest])
    assert GatePassed(gate="candidate").judge(world.evidence(release)).light == "green"


@pytest.mark.parametrize(
    ("facts", "rows", "allowed", "light"),
    [
        ({"licence": "MIT"}, [{"a": 1}], (), "green"),
        ({"licence": "MIT"}, [{"a": 1}], ("CC-BY-4.0",), "red"),
        ({}, [{"licence": "MIT"}, {"licence": "MIT"}], ("MIT",), "green"),
        ({}, [{"licence": "MIT"}, {"licence": ""}], (), "red"),
        ({}, [{"a": 1}], (), "red"),
    ],
)
def test_licence_present(world, facts, rows, allowed, light):
    dataset = world.table(rows, kind="dataset", file="documents.parquet", **facts)
    model = world.model(parents=[dataset.digest])
    assert LicencePresent(allowed=allowed).judge(world.evidence(model)).light == light
    lenient = LicencePresent(allowed=allowed, unstated="amber").judge(world.evidence(model))
    assert lenient.light == ("amber" if light == "red" and not allowed else light)
    with pytest.raises(EvidenceMissing, match="no dataset"):
        LicencePresent().judge(world.evidence(world.model(parents=[])))
