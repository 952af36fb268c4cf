"""The gates before a step: plans that are found again, and red lights that stop."""

import pytest

from app.escalation.gate import ask_to_climb, expected_cost_usd
from app.governance.evidence import Evidence
from app.governance.gate import judge, replay
from app.governance.policy import parse_policy
from app.governance.stoplights import DATA, StopLight, ask, ask_about_release, plan_retraining

ROWS = [{"question": f"What is fee {n}?", "answer": f"{n} euros", "split": "train"} for n in range(120)]
CHUNKS = [{"chunk_id": f"c{n}", "text": f"Fee {n} of that kind is {n} euros, as of old."} for n in range(9)]


@pytest.fixture
def rows(world):
    """``rows(**changes)``: synthetic rows over a dataset, all of whose rows get the changes."""

    def _rows(**changes):
        dataset = world.table(CHUNKS, kind="dataset", file="chunks.parquet")
        made = [{**row, **changes} for row in ROWS]
        return world.table(made, parents=[dataset.digest], num_rows=len(ROWS), num_rejected=0)

    return _rows


def test_the_data_gate_lets_whole_rows_through_and_stops_broken_ones(world, rows):
    verdict = ask(DATA, rows(), registry=world.registry)
    assert verdict.facts["light"] == "green"
    assert replay(verdict, registry=world.registry).same
    with pytest.raises(
        StopLight, match=r"data gate is red for synthetic handbook-qa@2: missing_values: 120 of 120"
    ) as red:
        ask(DATA, rows(answer=" "), registry=world.registry)
    assert red.value.exit_status == 3
    assert world.registry.get("verdict", "data-handbook-qa").facts["light"] == "red"


def test_asking_again_is_the_same_verdict(world, rows):
    made = rows()
    assert ask(DATA, made, registry=world.registry) == ask(DATA, made, registry=world.registry)


@pytest.fixture
def served(world):
    """A release of one model, and that model."""
    model = world.model()
    return world.registry.publish("release", "assistant", inputs={}, parents=[model.digest]), model


def trigger(world, name="trigger-1"):
    facts = {"alarm": True, "signals": ["embedding", "confidence"]}
    return world.registry.publish("trigger", "assistant", inputs={"trigger": name}, facts=facts)


def test_a_retraining_by_hand_passes_and_its_plan_is_found_again(world, served):
    release, model = served
    first = plan_retraining(release, model, trigger=None, registry=world.registry)
    assert plan_retraining(release, model, trigger=None, registry=world.registry) == first
    assert ask("retraining", first, registry=world.registry).facts["light"] == "green"


def test_a_trigger_that_is_not_on_record_spends_nothing(world, served):
    plan = plan_retraining(*served, trigger="trigger-1", registry=world.registry)
    with pytest.raises(StopLight, match="no trigger is behind"):
        ask("retraining", plan, registry=world.registry)
    trigger(world)
    plan = plan_retraining(*served, trigger="trigger-1", registry=world.registry)
    assert ask("retraining", plan, registry=world.registry).facts["light"] == "green"


def test_a_second_trigger_waits_and_a_person_does_not(world, served):
    for name in ("trigger-1", "trigger-2"):
        trigger(world, name)
    plans = [plan_retraining(*served, trigger=name, registry=world.registry) for name in ("trigger-1", "trigger-2")]
    ask("retraining", plans[0], registry=world.registry)
    with pytest.raises(StopLight, match=r"cool_down: 0\.0 minutes after the last plan"):
        ask("retraining", plans[1], registry=world.registry)
    by_hand = plan_retraining(*served, trigger=None, registry=world.registry)
    assert ask("retraining", by_hand, registry=world.registry).facts["light"] == "green"


def test_what_retrainings_cost_before_is_counted(world, served):
    release, model = served
    for cost_usd in (6.0, 5.0):
        facts = {"train": {"cost_usd": cost_usd}}
        world.registry.publish("model", "small", inputs={"c": cost_usd}, parents=[model.digest], facts=facts)
    plan = plan_retraining(release, model, trigger=None, registry=world.registry)
    assert (plan.facts["cost_usd"], plan.facts["spent_usd"]) == (5.0, 11.0)
    with pytest.raises(StopLight, match=r"\$5.0000 expected and \$11.0000 spent, the budget is \$10"):
        ask("retraining", plan, registry=world.registry)


# A deeper rung


def rung(world, suite, low=0.0):
    world.count += 1
    facts = {"exact_match": {"value": low, "low": low, "high": 1.0}}
    inputs = {"n": world.count, "suite": suite.digest}
    return world.registry.publish("evaluation", "rung", inputs=inputs, parents=[suite.digest], facts=facts)


def test_a_deeper_rung_needs_the_cheaper_ones(world):
    suite = world.table([{"question": "a"}], kind="suite", name="s")
    tried = {"prompt": rung(world, suite)}

    def climb(to, cost_usd=0.1):
        return ask_to_climb(to, measured=tried, cost_usd=cost_usd, registry=world.registry).facts["light"]

    with pytest.raises(StopLight, match="no evaluation on suite 'retrieval'"):
        climb("lora")
    tried["retrieval"] = rung(world, suite, 0.5)
    assert climb("lora") == "green"
    with pytest.raises(StopLight, match="budget"):
        climb("lora", cost_usd=11.0)
    tried["lora"] = rung(world, suite, 0.9)
    assert climb("full") == "amber"
    with pytest.raises(ValueError, match="no rung"):
        climb("deeper")


def test_the_cost_is_that_of_a_row_seen_before(world):
    facts = {"train": {"cost_usd": 2.0, "steps": 10}}
    like = world.registry.publish("model", "m", inputs={"settings": {"batch_size": 20}}, facts=facts)
    assert expected_cost_usd(like, num_rows=50) == pytest.approx(0.5)


# Before traffic


@pytest.fixture
def candidate(world):
    """``candidate(light, seconds)``: a release on a verdict of that light, whose answers took so long."""

    def _candidate(minimum=0.0, seconds=0.1):
        dataset = world.table(CHUNKS, kind="dataset", file="chunks.parquet")
        index = world.registry.publish("index", "i", inputs={"d": dataset.digest}, parents=[dataset.digest])
        model = world.model(parents=[dataset.digest])
        answers = [{"question_id": str(n), "exact_match": 1.0, "prediction": "8 euros"} for n in range(50)]
        evaluation = world.table(answers, kind="evaluation", name="e", seconds_per_question=seconds)
        check = {"kind": "min_metric", "threshold": minimum}
        policy = parse_policy({"name": "mine", "gate": "candidate", "checks": [check]})
        evidence = Evidence(model, world.registry, {"target": evaluation})
        verdict = judge(policy, evidence, registry=world.registry)
        parents = [model.digest, index.digest, dataset.digest, verdict.digest]
        facts = {"small": model.digest, "prices": {"small_usd_per_1k_tokens": 0.1}}
        return world.registry.publish("release", "r", inputs={"p": parents}, parents=parents, facts=facts), verdict

    return _candidate


def test_a_release_is_judged_before_traffic(world, candidate):
    release, verdict = candidate()
    light = ask_about_release(release, verdict=verdict, registry=world.registry)
    assert light.facts["light"] == "green"
    assert light.facts["artifact"]["digest"] == release.digest
    assert replay(light, registry=world.registry).same


@pytest.mark.parametrize(
    ("given", "says"), [({"minimum": 2.0}, "the candidate gate was red"), ({"seconds": 6.0}, "latency_ceiling")]
)
def test_a_release_whose_candidate_was_red_or_that_is_slow_gets_no_traffic(world, candidate, given, says):
    release, verdict = candidate(**given)
    with pytest.raises(StopLight, match=says):
        ask_about_release(release, verdict=verdict, registry=world.registry)


def test_a_release_that_only_quotes_was_judged_for_traffic_already(world):
    values = {"name": "retrieval", "gate": "release", "checks": [{"kind": "complete_lineage"}]}
    verdict = judge(parse_policy(values), world.evidence(world.dataset()), registry=world.registry)
    release = world.registry.publish("release", "r", inputs={}, parents=[verdict.digest])
    assert ask_about_release(release, verdict=verdict, registry=world.registry) == verdict
