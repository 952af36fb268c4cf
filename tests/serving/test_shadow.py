"""Production's requests answered again offline: who is right, pairs, what is published, and a gate that reads it."""

import asyncio
import json
from dataclasses import replace
from typing import ClassVar

import pyarrow.compute as pc
import pytest

from app.evaluation.settings import EvaluationSettings
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.policy import load_policy
from app.ledger.batches import write_part
from app.registry.tables import ROWS_FILE
from app.serving.counters import ANONYMOUS
from app.serving.errors import unavailable
from app.serving.feedback import Scores, asked_by
from app.serving.log import read_log
from app.serving.outcomes import NoQuestions, questions_of, questions_of_log
from app.serving.release import Model
from app.serving.requests import ChatRequest
from app.serving.settings import ServingSettings
from app.serving.shadow import NoTraffic, sample_of, shadow
from tests.serving.conftest import FakeBackends, make_release
from tests.serving.test_feedback import rate

NUM = 30


class Backends(FakeBackends):
    """Models of the other release say what ``others`` holds; what is in ``failing`` fails."""

    others: ClassVar[dict[str, str]] = {"small": "2000 euros", "large": "2,000 euros"}
    own: ClassVar[dict[str, str]] = {"small": "2000 euros", "large": "2,000 euros"}
    failing: ClassVar[tuple[str, ...]] = ()

    async def generate(self, rung, model, prompt, sampling):
        if model in self.failing:
            raise unavailable("it broke", code="fault")
        self.texts = self.others if model.endswith("-b") else self.own
        return await super().generate(rung, model, prompt, sampling)


@pytest.fixture
def pair(registry):
    """Production and another release, published."""
    first, other = (registry.publish("release", "assistant", inputs={"n": n}, facts={}) for n in range(2))
    models = {rung: Model(f"sha256:{rung}-b", f"{rung}@4") for rung in ("small", "large")}
    return make_release(first.digest), replace(make_release(other.digest), models=models)


@pytest.fixture
def answered(make_gateway, releases, pair, request_log):
    """The gateway, after production answered questions by its small model; a few named a model or failed."""
    releases["assistant@production"] = pair[0]
    gateway = make_gateway()

    async def story():
        for number in range(NUM):
            asked = ChatRequest(messages=[{"role": "user", "content": f"What is fee {number}?"}], n=2)
            await gateway.chat(asked, request_id=f"r{number}")
        named = ChatRequest(model="large", messages=[{"role": "user", "content": "What?"}])
        await gateway.chat(named, request_id="by-name")

    asyncio.run(story())
    return gateway


def run(registry, pair, backends, *, other=True, num=100, scores=None):
    asked, _ = sample_of(registry, pair[0].digest, num=num, scores=scores)
    how = {"registry": registry, "backends": backends, "settings": EvaluationSettings(num_resamples=200)}
    return shadow(pair[0], pair[1] if other else None, asked, serving=ServingSettings(), **how)


def rows_of(registry, version):
    from app.core.parquet import read_rows

    return {row["question_id"]: row for row in read_rows(registry.folder(version) / ROWS_FILE)}


def test_a_sample_is_of_routed_requests_and_a_larger_one_holds_the_smaller(registry, pair, answered, request_log):
    request_log.close()
    few, many = ({each.request_id for each in sample_of(registry, pair[0].digest, num=num)[0]} for num in (10, 1000))
    assert many == {f"r{number}" for number in range(NUM)}
    assert (len(few), few - many) == (10, set())
    assert sample_of(registry, pair[1].digest, num=10) == ([], 0)


def test_an_equal_release_is_let_through_by_the_gate(registry, pair, answered, request_log):
    request_log.close()
    before, after = run(registry, pair, Backends())
    assert (before.facts["exact_match"]["value"], after.facts["exact_match"]["value"]) == (0.0, 0.0)
    assert before.facts["num_rows"] == after.facts["num_rows"] == NUM
    assert after.facts["agreement"]["value"] == 1.0
    assert after.facts["change"]["token_f1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert after.facts["routes"] == before.facts["routes"] == {"small": NUM}
    assert set(after.parents) == {pair[0].digest, pair[1].digest, before.digest}
    assert run(registry, pair, Backends()) == (before, after)
    release = registry.get("release", pair[1].digest)
    labelled = {"candidate": {"traffic": after}, "production": {"traffic": before}}
    verdict = judge(load_policy("shadow"), Evidence.collect(release, registry=registry, **labelled), registry=registry)
    assert verdict.facts["light"] == "green"


def test_what_callers_say_is_right_and_a_worse_release_is_refused(registry, pair, answered, request_log):
    for number in range(NUM):
        rate(answered, request_id=f"r{number}", score=1)
    rate(answered, request_id="r0", score=0, answer="two thousand")
    request_log.close()
    backends, scores = Backends(), Scores.read(registry)
    backends.others = {"small": "nothing", "large": "nothing"}
    before, after = run(registry, pair, backends, scores=scores)
    rows = rows_of(registry, before)
    assert {row["judged_by"] for row in rows.values()} == {"people"}
    assert [row["exact_match"] for _, row in sorted(rows.items())] == [0.0] + [1.0] * (NUM - 1)
    assert after.facts["num_judged_by_people"] == NUM
    assert after.facts["change"]["exact_match"]["high"] < -0.5
    assert after.facts["agreement"]["value"] == 0.0
    release = registry.get("release", pair[1].digest)
    labelled = {"candidate": {"traffic": after}, "production": {"traffic": before}}
    verdict = judge(load_policy("shadow"), Evidence.collect(release, registry=registry, **labelled), registry=registry)
    assert verdict.facts["light"] == "red"


def test_the_large_model_alone_answers_where_no_release_is_named(registry, pair, answered, request_log):
    request_log.close()
    before, after = run(registry, pair, Backends(), other=False)
    assert (after.facts["exact_match"]["value"], after.facts["routes"]) == (1.0, {"large": NUM})
    assert after.facts["change"]["cost_usd"]["low"] > 0
    assert before.facts["exact_match"]["value"] == 0.0


def test_nothing_of_it_is_logged_and_no_text_is_published(registry, pair, answered, request_log):
    request_log.close()
    num = read_log(registry.workspace.requests_dir).num_rows
    for version in run(registry, pair, Backends()):
        rows = rows_of(registry, version)
        assert "fee" not in json.dumps([rows, version.manifest])
        assert "euros" not in json.dumps([rows, version.manifest])
    assert read_log(registry.workspace.requests_dir).num_rows == num


def test_what_a_caller_rated_down_counts_as_right_for_nobody(registry, pair, answered, request_log):
    for number in range(NUM - 1):
        rate(answered, request_id=f"r{number}", rating="down")
    request_log.close()
    scores = Scores.read(registry)
    before, _ = run(registry, pair, Backends(), scores=scores)
    assert (before.facts["num_rows"], before.facts["exact_match"]["value"]) == (NUM, 0.0)  # the largest said another
    same = Backends()
    same.own = {"small": "2000 euros", "large": "2000 euros"}
    third = registry.publish("release", "assistant", inputs={"n": 3}, facts={})
    later = (pair[0], replace(pair[1], digest=third.digest))
    before, _ = run(registry, later, same, scores=scores)
    assert set(rows_of(registry, before)) == {f"r{NUM - 1}"}
    asked = [each for each in sample_of(registry, pair[0].digest, num=NUM, scores=scores)[0] if each.score == 0]
    how = {"registry": registry, "backends": same, "settings": EvaluationSettings(num_resamples=200)}
    with pytest.raises(NoTraffic, match="rated down"):
        shadow(*later, asked, serving=ServingSettings(), **how)


def test_the_same_release_costs_the_same_though_several_choices_were_logged(registry, pair, answered, request_log):
    request_log.close()
    before, after = run(registry, pair, Backends())
    assert before.facts["usd_per_1000"] == pytest.approx(after.facts["usd_per_1000"])
    assert before.facts["usd_per_1000"]["value"] > 0


def test_what_cannot_be_asked_again_is_skipped(registry, pair, answered, request_log):
    request_log.close()
    folder = registry.workspace.requests_dir
    (row,) = read_log(folder).filter(pc.field("request_id") == "r0").to_pylist()
    tool = {"type": "function", "function": {"name": "look"}}
    sent = json.loads(row["request_json"])
    for name, request in (("tools", sent | {"tools": [tool]}), ("older", sent | {"messages": "?"})):
        said = row["response_json"].replace(asked_by("r0", ANONYMOUS), asked_by(name, ANONYMOUS))
        more = {"request_id": name, "request_json": json.dumps(request), "response_json": said}
        write_part(folder / f"z-{name}.parquet", [row | more])
    found, num_skipped = sample_of(registry, pair[0].digest, num=100)
    assert ({each.request_id for each in found}, num_skipped) == ({f"r{number}" for number in range(NUM)}, 1)
    asked = questions_of_log(folder, release=pair[0].digest, share=1.0)
    assert {each.row_id for each in asked} == {"older", *(f"r{number}" for number in range(NUM))}


def test_an_evaluation_of_traffic_has_no_questions_to_ask(registry, pair, answered, request_log):
    request_log.close()
    before, _ = run(registry, pair, Backends())
    with pytest.raises(NoQuestions, match="holds no questions: name"):
        questions_of(before, registry)


def test_a_model_that_fails_costs_its_release_and_a_measure_that_fails_costs_nobody(
    registry, pair, answered, request_log
):
    rate(answered, request_id="r0", score=0, answer="two thousand")
    request_log.close()
    broken = Backends()
    broken.failing = ("sha256:small-b", "sha256:large-b")
    _, after = run(registry, pair, broken)
    assert after.facts["routes"] == {"failed": NUM}
    assert after.facts["token_f1"]["value"] == 0.0
    broken.failing = ("sha256:large",)
    scores = Scores.read(registry)
    before, after = run(registry, pair, broken, scores=scores)
    assert set(rows_of(registry, before)) == set(rows_of(registry, after)) == {"r0"}
    with pytest.raises(NoTraffic, match="answered none of"):
        run(registry, pair, broken, num=NUM - 1)


def test_without_traffic_or_models_it_says_so(registry, pair, answered, request_log):
    request_log.close()
    with pytest.raises(NoTraffic):
        run(registry, (pair[1], pair[0]), Backends())
    with pytest.raises(NoTraffic):
        run(registry, (replace(pair[0], models={}, router=None), pair[1]), Backends())
