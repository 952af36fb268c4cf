"""Attacks on verdicts, by somebody who may publish versions, or holds the store and the database.

Each must be refused at promotion, or named by ``signalbox gate replay`` or ``signalbox verify`` with a sentence.
"""

import json
from dataclasses import dataclass, replace

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.core.store import MANIFEST
from app.governance.approvals import approve
from app.governance.evidence import Evidence, EvidenceChanged
from app.governance.gate import judge
from app.governance.policy import load_policy, parse_policy, policy_of
from app.governance.promotion import VerdictRefused, promote
from app.governance.release import build_release
from app.governance.stoplights import DATA, StopLight, ask
from app.ledger.verify import verify
from app.loop import put_into_production
from tests.governance.conftest import World, ask_for_traffic

ROWS = [{"question": f"What is fee {n}?", "answer": f"{n} euros", "split": "train"} for n in range(120)]
CHUNKS = [{"chunk_id": f"c{n}", "text": f"Fee {n} is {n} euros."} for n in range(120)]
QUESTIONS = [{"question_id": f"q{n}", "question": f"How dear is {n}?", "answers": [f"{n} euros"]} for n in range(120)]


@dataclass
class House(World):
    """A world with documents, rows, suites, models and the shipped policies."""

    def __post_init__(self):
        self.documents = self.table(CHUNKS, kind="dataset", name="handbook", file="chunks.parquet", num_documents=1)
        facts = {"num_rows": len(ROWS), "num_rejected": 0}
        self.rows = self.table(ROWS, parents=[self.documents.digest], **facts)
        self.data = ask(DATA, self.rows, registry=self.registry)

    def suite(self, questions=QUESTIONS, name="mine"):
        return self.table(questions, kind="suite", name=name)

    def trained(self, *more):
        facts = {"train": {"loss_first": 3.0, "loss_last": 0.1}, "base": None}
        parents = [self.rows.digest, *(version.digest for version in more)]
        curve = [{"loss": 3.0}, {"loss": 0.1}]
        return self.table(curve, kind="model", name="small", file="loss.parquet", parents=parents, **facts)

    def evaluated(self, model, suite, correct=120, name="small-mine"):
        rows = [
            {"question_id": f"q{n}", "prediction": f"{n} euros", "exact_match": float(n < correct)} for n in range(120)
        ]
        inputs = {"model": model.digest, "suite": suite.digest}
        parents = [model.digest, suite.digest]
        facts = {"seconds_per_question": 0.1}
        return self.table(rows, kind="evaluation", name=name, parents=parents, inputs=inputs, **facts)

    def judged(self, evaluation, model, *, policy=None, **given):
        evidence = self.evidence(model, candidate={"target": evaluation}, others={"data": self.data}, **given)
        return judge(policy or load_policy("candidate"), evidence, registry=self.registry)

    def released(self, verdict, model):
        """A release on a verdict, approved."""
        digest = self.documents.digest
        index = self.registry.publish("index", "handbook", inputs={"d": digest}, parents=[digest])
        router = self.registry.publish("router", "r", inputs={"m": model.digest}, parents=[model.digest])
        parts = {"small": model, "router": router, "index": index, "dataset": self.documents, "verdict": verdict}
        prices = {"small_usd_per_1k_tokens": 0.1}
        release = build_release("assistant", **parts, prices=prices, registry=self.registry)
        ask_for_traffic(release, verdict, self.registry)
        named = {"printed_name": "Jane Doe", "meaning": "approved for production"}
        approve(verdict, release, signer=self.signer(), registry=self.registry, **named)
        return release

    def put(self, release, verdict):
        policy = policy_of(self.registry.get("policy", verdict.manifest["inputs"]["policy"]))
        promote(release, verdict=verdict, registry=self.registry, policy=policy, reason="test")

    def forged(self, verdict, **manifest):
        """A verdict made up by hand from another, and published as any version is."""
        whole = {key: manifest.get(key, verdict.manifest[key]) for key in ("inputs", "parents", "facts")}
        return self.registry.publish("verdict", verdict.name, **whole)

    def differences(self, verdict):
        """What the command says about a verdict."""
        words = ["gate", "replay", verdict.ref, "--json", "--workspace", str(self.registry.workspace.root)]
        ended = CliRunner().invoke(app, words)
        found = json.loads(ended.stdout)
        assert (ended.exit_code, found["same"]) == ((1, False) if found["differences"] else (0, True))
        return "; ".join(found["differences"])

    def production(self):
        return self.registry.alias("release", "assistant", "production")


@pytest.fixture
def house(registry, tmp_path):
    return House(registry, tmp_path)


@pytest.fixture
def whole(house):
    """Everything in order: ``(verdict, model, evaluation)``, which would be promoted."""
    suite = house.suite()
    model = house.trained()
    evaluation = house.evaluated(model, suite)
    return house.judged(evaluation, model), model, evaluation


@pytest.fixture
def red(house):
    """A candidate that fails its suite."""
    suite = house.suite()
    model = house.trained()
    evaluation = house.evaluated(model, suite, correct=60)
    return house.judged(evaluation, model), model, evaluation


def refused(house, verdict, model, says):
    """Neither the Python API nor the loop promotes on this verdict."""
    release = house.released(verdict, model)
    with pytest.raises(VerdictRefused, match=says):
        house.put(release, verdict)
    with pytest.raises((VerdictRefused, StopLight), match=says):
        put_into_production(release, registry=house.registry, reason="test")
    assert house.production() is None


def test_what_is_in_order_is_promoted(house, whole):
    """The yardstick: without an attack the same steps go through, and everything holds."""
    verdict, model, _ = whole
    assert verdict.facts["light"] == "green"
    assert house.differences(verdict) == ""
    release = house.released(verdict, model)
    house.put(release, verdict)
    assert house.production() == release.digest
    report = verify(house.registry.workspace)
    assert report.ok, report.lines()


# A verdict that is not what its evidence gives


def test_a_verdict_with_one_metric_changed(house, whole):
    verdict, model, _ = whole
    facts = json.loads(json.dumps(verdict.facts))
    metric = next(check for check in facts["checks"] if check["kind"] == "min_metric")
    metric["figure"] = 0.99
    forged = house.forged(verdict, facts=facts)
    assert house.differences(forged) == "min_metric.figure: recorded 0.99, now 1.0"
    refused(house, forged, model, "min_metric.figure: recorded 0.99")


def test_a_red_verdict_painted_green(house, red):
    verdict, model, _ = red
    assert verdict.facts["light"] == "red"
    forged = house.forged(verdict, facts={**verdict.facts, "light": "green"})
    assert house.differences(forged) == "light: recorded 'green', now 'red'"
    refused(house, forged, model, "light: recorded 'green', now 'red'")


def test_a_verdict_made_up_from_nothing(house, red):
    verdict, model, _ = red
    forged = house.forged(verdict, inputs={"policy": verdict.manifest["inputs"]["policy"]}, facts={
        **verdict.facts, "light": "green"
    })  # fmt: skip
    assert "records no evidence" in house.differences(forged)
    refused(house, forged, model, "records no evidence")


def test_the_evaluation_of_another_model(house, red):
    """The evidence of a good candidate under the digest of a bad one."""
    verdict, model, evaluation = red
    suite = house.registry.get("suite", "mine")
    borrowed = house.evaluated(house.trained(), suite, name="good")
    evidence = {**verdict.manifest["inputs"]["evidence"], "candidate": {"target": borrowed.digest}}
    inputs = {**verdict.manifest["inputs"], "evidence": evidence}
    forged = house.forged(verdict, inputs=inputs, facts={**verdict.facts, "light": "green"})
    assert "light: recorded 'green', now 'red'" in house.differences(forged)
    refused(house, forged, model, "light: recorded 'green', now 'red'")
    honest = house.judged(borrowed, model)
    reds = [check["reason"] for check in honest.facts["checks"] if check["light"] == "red"]
    assert reds == [f"evaluation {borrowed.ref} is not of model small@1"]
    flattered = house.judged(evaluation, model, production={"target": evaluation})
    assert "is no production's but of model small@1" in json.dumps(flattered.facts["checks"])


# Suites


def test_a_suite_committed_after_the_training(house):
    model = house.trained()
    late = house.suite()
    verdict = house.judged(house.evaluated(model, late), model)
    reasons = [check["reason"] for check in verdict.facts["checks"] if check["light"] == "red"]
    assert len(reasons) == 1
    assert "suite mine@1 (target, leaf" in reasons[0]
    assert "came after model small" in reasons[0]
    forged = house.forged(verdict, facts={**verdict.facts, "light": "green"})
    refused(house, forged, model, "light: recorded 'green', now 'red'")


def test_a_late_suite_under_an_early_name(house):
    """A name is no commitment: the digest is."""
    house.suite(QUESTIONS[:5])
    model = house.trained()
    late = house.suite(QUESTIONS[:60])
    assert late.ref == "mine@2"
    assert "came after" in json.dumps(house.judged(house.evaluated(model, late), model).facts["checks"])


@pytest.mark.parametrize(
    "shared",
    [
        {"question": "what is FEE 3", "answers": ["3 Euros!"]},
        {"question": "Tell me now: in the long list of all the fees that members pay, which is 7?", "answers": ["x"]},
    ],
)
def test_a_suite_that_shares_a_row_with_the_training(house, shared):
    long = {
        "question": "in the long list of all the fees that members pay, which is 7?",
        "answer": "7",
        "split": "train",
    }
    house.rows = house.table([*ROWS, long], parents=[house.documents.digest], num_rows=121, num_rejected=0)
    house.data = ask(DATA, house.rows, registry=house.registry)
    suite = house.suite([*QUESTIONS, {"question_id": "shared", **shared}])
    model = house.trained()
    verdict = house.judged(house.evaluated(model, suite), model)
    reasons = [check["reason"] for check in verdict.facts["checks"] if check["light"] == "red"]
    assert len(reasons) == 1
    assert (
        f"1 of 121 questions of mine@1 (target) are among the 121 training rows, first {shared['question']!r}"
        in reasons[0]
    )
    refused(
        house, house.forged(verdict, facts={**verdict.facts, "light": "green"}), model, "recorded 'green', now 'red'"
    )


# Policies


def lax(threshold=0.1):
    """The shipped policy with one threshold lowered, under its name."""
    values = load_policy("candidate").to_json()
    checks = [
        {**check, "threshold": threshold} if check["kind"] == "min_metric" else check for check in values["checks"]
    ]
    return parse_policy({**values, "checks": checks})


def test_a_laxer_policy_in_the_place_of_the_one_named(house, red):
    """A verdict by the lax policy, brought to a promotion under the strict one; and the strict one's digest put in."""
    verdict, model, evaluation = red
    easy = house.judged(evaluation, model, policy=lax())
    assert (easy.facts["light"], easy.facts["policy"]) == ("green", "candidate@2")
    release = house.released(easy, model)
    with pytest.raises(VerdictRefused, match=r"not judged by candidate@1"):
        promote(release, verdict=easy, registry=house.registry, policy=load_policy("candidate"), reason="test")
    inputs = {**easy.manifest["inputs"], "policy": verdict.manifest["inputs"]["policy"]}
    forged = house.forged(easy, inputs=inputs, parents=[inputs["policy"], *easy.parents[1:]])
    assert "light: recorded 'green', now 'red'" in house.differences(forged)
    assert "min_metric.threshold: recorded 0.1, now 0.8" in house.differences(forged)


def test_a_laxer_policy_under_the_name_that_production_was_judged_by(house, whole):
    verdict, model, _ = whole
    first = house.released(verdict, model)
    house.put(first, verdict)
    suite = house.suite(name="next")
    weak = house.trained(model)
    easy = house.judged(house.evaluated(weak, suite, correct=118), weak, policy=lax(0.5), production={
        "target": house.evaluated(model, suite, correct=119, name="before")
    })  # fmt: skip
    assert easy.facts["light"] == "amber", "no better than production, which a person may want all the same"
    release = house.released(easy, weak)
    with pytest.raises(
        VerdictRefused, match=r"candidate@2 asks less than candidate@1.*min_metric.threshold was 0.8 and is 0.5"
    ):
        put_into_production(release, registry=house.registry, reason="test")
    assert house.production() == first.digest


def test_a_policy_edited_in_the_store(house, red):
    verdict, _, _ = red
    digest = verdict.manifest["inputs"]["policy"]
    path = house.registry.folder(house.registry.get("policy", digest)).parent / MANIFEST
    path.write_text(path.read_text().replace('"threshold":0.8', '"threshold":0.1'))
    assert "policy candidate@1 is not what its digest names" in house.differences(verdict)
    assert (
        "changed-artifact" in {fault.kind for fault in verify(house.registry.workspace).faults}
        or not verify(house.registry.workspace).ok
    )


# Evidence


def test_evaluation_rows_edited(house, red):
    verdict, model, evaluation = red
    path = house.registry.folder(evaluation) / "rows.parquet"
    good = house.table([{"question_id": "q", "exact_match": 1.0, "prediction": "a"}], kind="evaluation", name="x")
    path.write_bytes((house.registry.folder(good) / "rows.parquet").read_bytes())
    assert f"rows.parquet of evaluation {evaluation.ref} is gone, or not what its manifest names" in house.differences(
        verdict
    )
    assert house.judged(evaluation, model).facts["light"] == "red"
    assert not verify(house.registry.workspace).ok


def test_facts_edited_in_an_evaluation_s_manifest(house, whole):
    verdict, model, evaluation = whole
    path = house.registry.folder(evaluation).parent / MANIFEST
    path.write_text(path.read_text().replace('"seconds_per_question":0.1', '"seconds_per_question":0.0'))
    assert f"evaluation {evaluation.ref} is not what its digest names" in house.differences(verdict)
    with pytest.raises(EvidenceChanged, match="is not what its digest names"):
        house.judged(house.registry.get("evaluation", evaluation.digest), model)


def test_training_rows_edited_to_hide_what_was_trained_on(house, whole):
    verdict, _, _ = whole
    path = house.registry.folder(house.rows) / "rows.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    assert "rows.parquet of synthetic handbook-qa@1 is gone, or not what its manifest names" in house.differences(
        verdict
    )


def test_an_earlier_promotion_passed_over(house, whole):
    """Evidence put together by hand, without the suite that the first promotion left behind."""
    verdict, model, _ = whole
    house.put(house.released(verdict, model), verdict)
    suite = house.suite(name="next")
    forgetful = house.trained(model)
    evaluation = house.evaluated(forgetful, suite, name="forgetful")
    before = house.evaluated(model, suite, name="before")
    evidence = Evidence(
        forgetful, house.registry, {"target": evaluation}, {"target": before}, others={"data": house.data}
    )
    blind = judge(load_policy("candidate"), evidence, registry=house.registry)
    assert blind.facts["light"] == "amber"
    assert house.differences(blind) == "earlier: small-mine@1, by which a promotion before was judged, is left out"
    release = house.released(blind, forgetful)
    with pytest.raises(VerdictRefused, match="is left out"):
        house.put(release, blind)


@pytest.mark.parametrize("at", ["2001-01-01T00:00:00.000000Z", "2199-01-01T00:00:00.000000Z"])
def test_a_verdict_judged_at_another_time(house, whole, at):
    """Back-dated, so that old documents look fresh; or put off."""
    _, model, evaluation = whole
    evidence = house.evidence(model, candidate={"target": evaluation}, others={"data": house.data})
    moved = judge(load_policy("candidate"), replace(evidence, at=at), registry=house.registry)
    assert f"at: judged at {at}, not between" in house.differences(moved)


def test_a_data_gate_made_up(house):
    empty = [{**row, "answer": ""} for row in ROWS]
    house.rows = house.table(empty, parents=[house.documents.digest], num_rows=120, num_rejected=0)
    with pytest.raises(StopLight):
        ask(DATA, house.rows, registry=house.registry)
    red = house.registry.get("verdict", "data-handbook-qa")
    house.data = house.forged(red, facts={**red.facts, "light": "green"})
    suite = house.suite()
    model = house.trained()
    verdict = house.judged(house.evaluated(model, suite), model)
    reasons = [check["reason"] for check in verdict.facts["checks"] if check["light"] == "red"]
    assert [reason for reason in reasons if "does not come out the same again" in reason] == reasons != []
