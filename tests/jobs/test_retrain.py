"""The retraining's composition and its command; the stages are small stand-ins that publish real versions."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from app import loop
from app.core.workspace import Workspace
from app.evaluation.answerers import Grounding
from app.governance.grounding import objection_to
from app.governance.lineage import trace
from app.governance.policy import load_policy
from app.governance.promotion import _set_alias
from app.governance.release import passages_of
from app.inference.passages import PASSAGES, identity_of
from app.inference.retrievers import find_source
from app.monitoring.lease import take
from app.monitoring.plan import RetrainPlan, save_plan
from app.monitoring.store import MonitorStore, Window, trigger_id
from app.registry.versions import Registry, Version
from app.settings import SignalboxSettings
from jobs import retrain as job_module
from jobs.common import Job
from tests.retrieval.tuned import publish_retriever

ANSWER = "12 euros"
PLAN = RetrainPlan(source="revision-2", suite="new", regression_suites=("old",))
Scores = dict[tuple[str, str], float]


class Killed(BaseException):
    """What a SIGKILL looks like from the inside."""


@dataclass
class Stages:
    """Stand-ins for the stages; they count their work and can be killed before one of them."""

    registry: Registry
    folder: Path
    scores: Scores
    """Exact match by (model's data, suite)."""

    work: list[str] = field(default_factory=list)
    killed_at: str = ""
    num_folders: int = 0

    def table(self, name: str, rows: list[dict[str, Any]]) -> Path:
        """A folder with one Parquet file of these rows."""
        self.num_folders += 1
        folder = self.folder / f"{self.num_folders}"
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
        return folder

    def make(self, kind: str, name: str, inputs: dict[str, Any], **more: Any) -> Version:
        if found := self.registry.find(kind, name, inputs):
            return found
        if kind == self.killed_at:
            raise Killed(kind)
        self.work.append(kind)
        return self.registry.publish(kind, name, inputs=inputs, **more)

    def ingest(self, source: str, name: str, **_: Any) -> Version:
        chunks = self.table("chunks.parquet", [{"chunk_id": "c", "text": f"{source}: the fee is {ANSWER}."}])
        return self.make("dataset", name, {"source": str(source)}, folder=chunks)

    def build_index(self, dataset: Version, *, name: str, retriever: Version | None = None, **_: Any) -> Version:
        facts = find_source(retriever, registry=self.registry).facts()
        return self.make("index", name, {"dataset": dataset.digest}, parents=[dataset.digest], facts=facts)

    def synthesize(self, dataset: Version, *, name: str, **_: Any) -> Version:
        rows = [{"question": f"Fee {n} of {dataset.ref}?", "answer": ANSWER, "split": "train"} for n in range(100)]
        folder, parents = self.table("rows.parquet", rows), [dataset.digest]
        facts = {"num_rows": 100, "num_rejected": 0}
        return self.make("synthetic", name, {"dataset": dataset.digest}, folder=folder, parents=parents, facts=facts)

    def train(self, *, name: str, data: list[Version], base: Version | None, **_: Any) -> Version:
        digests = [version.digest for version in data]
        facts = {"train": {"loss_first": 3.0, "loss_last": 0.2}, "data": [version.ref for version in data]}
        parents = [*digests, *([base.digest] if base else [])]
        facts["base"] = base.digest if base else None
        curve = self.table("loss.parquet", [{"loss": 3.0}, {"loss": 0.2}])
        (curve / "tokenizer.json").write_text("{}")
        return self.make("model", name, {"data": digests}, folder=curve, parents=parents, facts=facts)

    def calibrate_router(self, *, small: Version, index: Version, context_passages: int = 0, **_: Any) -> Version:
        inputs: dict[str, Any] = {"small": small.digest, "index": index.digest, "synthetic": ""}
        inputs |= {PASSAGES: identity_of(index.digest, context_passages)} if context_passages else {}
        return self.make("router", "router", inputs)

    def evaluate(self, model: Version, suite: Version, grounding: Grounding | None = None, **_: Any) -> Version:
        rate = self.scores[model.facts["data"][0], suite.name]
        rows = [
            {"question_id": f"{suite.name}-{n}", "prediction": ANSWER, "exact_match": float(n < 100 * rate)}
            for n in range(100)
        ]
        inputs, facts = {"model": model.digest, "suite": suite.digest}, {"seconds_per_question": 0.01}
        inputs |= {PASSAGES: grounding.identity} if grounding else {}
        folder, parents = self.table("rows.parquet", rows), [model.digest, suite.digest]
        return self.make("evaluation", suite.name, inputs, folder=folder, parents=parents, facts=facts)


GOOD: Scores = {
    ("handbook-qa@1", "new"): 0.0,
    ("handbook-qa@1", "old"): 0.95,
    ("handbook-qa@2", "new"): 0.95,
    ("handbook-qa@2", "old"): 0.95,
}
FORGETFUL: Scores = GOOD | {("handbook-qa@2", "old"): 0.3}


@pytest.fixture
def stages(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    made = Stages(registry, tmp_path, dict(GOOD))
    for name in ("ingest", "build_index", "synthesize", "train", "calibrate_router", "evaluate"):
        monkeypatch.setattr(loop, name, getattr(made, name))
    monkeypatch.setattr(loop, "assess_on_cluster", lambda version, **_: version)
    for suite in ("new", "old"):
        questions = made.table("rows.parquet", [{"question": f"Which {suite} fee is it?", "answers": [ANSWER]}])
        registry.publish("suite", suite, folder=questions, inputs={"suite": suite})
    return made


@pytest.fixture
def production(stages: Stages, registry: Registry) -> Version:
    """A release of revision 1, put into production without ceremony: promotion is not what is tested here."""
    dataset = stages.ingest("revision-1", "handbook")
    rows = stages.synthesize(dataset, name="handbook-qa")
    small = stages.train(name="small", data=[rows], base=None)
    facts = {"small": small.digest, "large": None, "index": None, "dataset": dataset.digest, "router": None}
    facts |= {"policy": None, "prices": {"small_usd_per_1k_tokens": 0.1}}
    release = registry.publish("release", "assistant", inputs=facts, parents=[small.digest], facts=facts)
    put_in_production(registry, release)
    stages.work.clear()
    return release


def put_in_production(registry: Registry, release: Version) -> None:
    with registry.database.write() as connection:
        _set_alias(connection, release)


def retrain(registry: Registry, plan: RetrainPlan = PLAN) -> loop.Candidate:
    return loop.retrain(plan, registry=registry, settings=SignalboxSettings(), actor="retrain by hand")


def test_a_candidate_comes_with_its_verdict_and_production_stays(
    stages: Stages, production: Version, registry: Registry
) -> None:
    candidate = retrain(registry)
    assert candidate.verdict.facts["light"] == "green"
    assert candidate.release is not None
    assert candidate.release.facts["small"] == candidate.model.digest
    assert candidate.release.facts["prices"] == production.facts["prices"]
    assert candidate.verdict.digest in candidate.release.parents
    assert registry.alias("release", "assistant", "production") == production.digest
    assert set(candidate.evaluations) == set(candidate.before) == {"target", "old"}


def test_the_model_learns_on_from_production_and_replays_what_that_knows(
    stages: Stages, production: Version, registry: Registry
) -> None:
    model = retrain(registry).model
    assert model.facts["data"] == ["handbook-qa@2", "handbook-qa@1"]
    assert production.facts["small"] in model.parents


def test_the_retriever_in_production_makes_the_next_index_and_keeps_its_verdict(
    stages: Stages, production: Version, registry: Registry, tmp_path: Path
) -> None:
    retriever = publish_retriever(registry, tmp_path / "tuned")
    dataset = registry.get("dataset", production.facts["dataset"])
    index = stages.build_index(dataset, name="handbook", retriever=retriever)
    judged = {"artifact": {"kind": "index", "digest": index.digest}}
    verdict = registry.publish("verdict", "retriever-handbook", inputs={}, facts=judged)
    facts = production.facts | {"index": index.digest}
    inputs = {**facts, "index_verdict": verdict.digest}
    tuned = registry.publish("release", "assistant", inputs=inputs, parents=production.parents, facts=facts)
    put_in_production(registry, tuned)
    stages.work.clear()
    release = retrain(registry).release
    assert release is not None
    assert registry.get("index", release.facts["index"]).facts["retriever"] == retriever.digest
    assert release.manifest["inputs"]["index_verdict"] == verdict.digest


@pytest.mark.parametrize("stage", ["dataset", "index", "synthetic", "model", "router", "evaluation"])
def test_a_killed_retraining_goes_on_where_it_ended(
    stage: str, stages: Stages, production: Version, registry: Registry
) -> None:
    stages.killed_at = stage
    with pytest.raises(Killed):
        retrain(registry)
    stages.killed_at = ""
    first = retrain(registry)
    assert sorted(stages.work) == ["dataset", *["evaluation"] * 4, "index", "model", "router", "synthetic"]
    assert retrain(registry).release == first.release
    assert len(registry.versions("release")) == 2


def test_a_model_that_forgets_gets_a_red_verdict_and_no_release(
    stages: Stages, production: Version, registry: Registry
) -> None:
    stages.scores = dict(FORGETFUL)
    candidate = retrain(registry)
    assert candidate.verdict.facts["light"] == "red"
    assert candidate.release is None
    assert registry.versions("release") == [production]


def test_documents_that_say_nothing_new_are_no_retraining(
    stages: Stages, production: Version, registry: Registry
) -> None:
    with pytest.raises(loop.NothingNew, match="publish revised documents"):
        retrain(registry, PLAN.model_copy(update={"source": "revision-1"}))
    assert "model" not in stages.work


# The command


@pytest.fixture
def run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextmanager
    def without_cluster(workspace: Path | None, config: Path | None) -> Iterator[Job]:
        from app.core.errors import exit_status

        with exit_status():
            yield Job(registry.workspace, SignalboxSettings(), registry)

    monkeypatch.setattr(job_module, "job", without_cluster)

    def call(*options: str) -> Any:
        return CliRunner().invoke(job_module.app, ["--workspace", str(registry.workspace.root), *options])

    return call


@pytest.mark.parametrize(
    ("scores", "status", "says"), [(GOOD, 0, "awaits approval"), (FORGETFUL, 3, "the gate is red")]
)
def test_the_exit_status_tells_the_verdict(
    scores: Mapping[Any, float],
    status: int,
    says: str,
    stages: Stages,
    production: Version,
    workspace: Workspace,
    run: Any,
) -> None:
    stages.scores = dict(scores)
    save_plan(PLAN, workspace)
    result = run()
    assert result.exit_code == status
    assert says in result.output


def test_a_large_model_in_production_stands_by_the_verdict_that_brought_it_there(
    stages: Stages, registry: Registry
) -> None:
    rows = stages.synthesize(stages.ingest("revision-1", "handbook"), name="handbook-qa")
    large = stages.train(name="large", data=[rows], base=None)
    asked: dict[str, Any] = {"policy": load_policy("candidate"), "registry": registry, "settings": SignalboxSettings()}
    suites = {name: registry.get("suite", name) for name in ("old", "new")}
    first = loop.judge_large(large, {"target": suites["old"]}, production=None, **asked)
    assert first.facts["light"] == "green"
    inputs = {"large_verdict": first.digest}
    release = registry.publish("release", "assistant", inputs=inputs, facts={"large": large.digest})
    assert loop.judge_large(large, {"target": suites["new"]}, production=release, **asked) == first
    unknown = registry.publish("release", "assistant", inputs={}, facts={"large": large.digest})
    assert loop.judge_large(large, {"target": suites["new"]}, production=unknown, **asked).facts["light"] == "red"


def test_what_production_gives_its_models_is_given_to_the_candidate_and_to_those_that_stay(
    stages: Stages, registry: Registry
) -> None:
    dataset = stages.ingest("revision-1", "handbook")
    index, rows = stages.build_index(dataset, name="handbook"), stages.synthesize(dataset, name="handbook-qa")
    models = {name: stages.train(name=name, data=[rows], base=None) for name in ("small", "large")}
    given: dict[str, Any] = {"suites": {"target": registry.get("suite", "old")}, "policy": load_policy("candidate")}
    given |= {
        "knowledge": loop.Knowledge(dataset, index, rows),
        "gates": {"data": loop.ask("data", rows, registry=registry)},
    }
    given |= {"prices": {f"{rung}_usd_per_1k_tokens": 0.1 for rung in models}, "settings": SignalboxSettings()}
    first = loop.build_candidate("assistant", **models, **given, registry=registry, context_passages=3)
    assert first.release is not None, (first.verdict.facts["checks"], first.stopped)
    assert (passages_of(first.release), objection_to(first.release, first.verdict, registry)) == (3, "")
    put_in_production(registry, first.release)
    candidate = retrain(registry, PLAN)
    release = candidate.release
    assert release is not None, (candidate.verdict.facts["checks"], candidate.stopped)
    assert (passages_of(release), objection_to(release, candidate.verdict, registry)) == (3, "")
    newer = registry.get("index", release.facts["index"])
    assert newer != index
    stated = [each.stated("inputs", PASSAGES)["index"] for each in candidate.before.values()]
    assert set(stated) == {index.digest}
    large = registry.get("verdict", release.manifest["inputs"]["large_verdict"])
    for digest in large.manifest["inputs"]["evidence"]["candidate"].values():
        assert registry.get("evaluation", digest).stated("inputs", PASSAGES) == identity_of(newer.digest, 3)
    older = registry.publish("release", "assistant", inputs={"o": 1}, facts={**release.facts, "context_passages": 2})
    assert "no verdict is about its model 'large'" in objection_to(older, candidate.verdict, registry)


def test_machines_get_json(stages: Stages, production: Version, workspace: Workspace, run: Any) -> None:
    save_plan(PLAN, workspace)
    answer = json.loads(run("--json").stdout)
    assert answer["light"] == "green"
    assert answer["release"].startswith("sha256:")


@pytest.mark.parametrize(
    ("plan", "options", "says"),
    [
        (None, (), "no retraining plan"),
        (PLAN, ("--trigger", "trigger-0"), "no trigger 'trigger-0'"),
        (PLAN.model_copy(update={"suite": "newer"}), (), "there is no suite 'newer'"),
    ],
)
def test_what_cannot_be_carried_out_is_said_in_one_sentence_with_status_2(
    plan: RetrainPlan | None,
    options: tuple[str, ...],
    says: str,
    stages: Stages,
    production: Version,
    workspace: Workspace,
    run: Any,
) -> None:
    if plan:
        save_plan(plan, workspace)
    result = run(*options)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_ledger_names_the_trigger_behind_a_candidate(
    stages: Stages, production: Version, registry: Registry, workspace: Workspace, run: Any
) -> None:
    window = Window(production.digest, "sha256:b", "a", "b", 50, alarm=True)
    lease = take(registry.database, "monitor", holder="a", duration_s=30)
    assert lease
    MonitorStore(registry.database).record(window, lease=lease, with_trigger=True)
    save_plan(PLAN, workspace)
    refused = run("--trigger", trigger_id(window))
    assert (refused.exit_code, "no trigger is behind" in refused.stderr) == (3, True)
    assert "dataset" not in stages.work
    facts = {"alarm": True, "signals": ["embedding", "confidence"]}
    registry.publish("trigger", "assistant", inputs={"trigger": trigger_id(window)}, facts=facts)
    save_plan(PLAN, workspace)
    assert run("--trigger", trigger_id(window)).exit_code == 0
    actors = [leaf.statement.actor for leaf in registry.ledger.leaves("release")]
    assert actors == ["service", f"retrain {trigger_id(window)}"]
    plan = registry.versions("plan")[-1]
    assert plan.facts["asked"] == PLAN.model_dump(mode="json"), "retrain.json as it was read stands under a leaf"
    candidate = registry.get("release", "assistant")
    assert {"plan", "trigger"} <= {node.kind for node in trace(registry, candidate.digest).walk()}
