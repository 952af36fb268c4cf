"""An index with a tuned retriever on its way into production and back, apart from any model; and how it is kept out."""

import shutil
import zipfile
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from app import loop, loop_index
from app.core.parquet import write_rows
from app.governance.gate import replay
from app.governance.moves import previous_of
from app.governance.pack.verify import verify_pack
from app.governance.pack.write import write_pack
from app.governance.policy import load_policy, parse_policy
from app.governance.promotion import (
    ApprovalsMissing,
    RetrieverRefused,
    VerdictRefused,
    promote,
    rollback,
)
from app.governance.release import build_release, parts_of, passages_of
from app.governance.stoplights import ask_about_release
from app.inference.passages import PASSAGES, identity_of
from app.inference.retrievers import RetrieverMismatch
from app.loop import build_retrieval_release, find_knowledge, put_into_production
from app.loop_index import propose_index
from app.registry.tables import CHUNKS, CHUNKS_FILE, ROWS_FILE
from app.registry.versions import Version
from app.registry.whole import ArtifactChanged
from app.retrieval.index import write_index
from app.retrieval.settings import SearchSettings
from app.serving.engines import grounding_of
from app.settings import SignalboxSettings
from tests.attacks.world import Stage, stage
from tests.retrieval.tuned import publish_retriever

NUM, DIM = 60, 32
LAX = {"name": "retriever", "gate": "release", "checks": [{"kind": "complete_lineage"}, {"kind": "approvals"}]}


@dataclass
class House:
    """A workspace with a release in production whose index finds nothing, and what it takes to do better."""

    play: Stage
    tmp: object
    folders: int = 0
    small: Version = field(init=False)

    def __post_init__(self):
        self.registry = self.play.registry
        self.dataset = self.publish("dataset", CHUNKS_FILE, self.chunks(), schema=CHUNKS, num_chunks=NUM)
        self.suite = self.questions("suite", "asked", [f"word{n}?" for n in range(NUM)])
        self.old = self.index(None, fusion="dense")
        self.small = self.play.world.model(parents=[self.dataset.digest])
        self.jane = self.play.world.signer()

    def folder(self):
        self.folders += 1
        folder = self.tmp / f"house{self.folders}"
        folder.mkdir()
        return folder

    def publish(self, kind, file, rows, *, schema, name="handbook", parents=(), **facts):
        folder = self.folder()
        write_rows(folder / file, rows, schema=schema)
        inputs = {"n": self.folders}
        return self.registry.publish(kind, name, folder=folder, inputs=inputs, parents=list(parents), facts=facts)

    def chunks(self):
        return [
            {"chunk_id": f"c{n}", "document_id": f"d{n}", "source": f"{n}.md", "title": "", "heading_path": [],
             "ordinal": 0, "text": f"word{n} common"}
            for n in range(NUM)
        ]  # fmt: skip

    def questions(self, kind, name, asked, **given):
        """Questions of a suite or synthetic rows; the number in a question names its chunk."""
        numbers = ["".join(filter(str.isdigit, each)) for each in asked]
        pairs = zip(asked, numbers, strict=True)
        rows = [{"question": each, "chunk_id": f"c{n}", "split": "calibration"} for each, n in pairs]
        schema = pa.schema(dict.fromkeys(rows[0], pa.string()))
        return self.publish(kind, ROWS_FILE, rows, schema=schema, name=name, **given)

    def retriever(self, *, seed=0, on=None):
        rows = on or self.questions("synthetic", "pairs", [f"which is number {n}" for n in range(NUM)])
        return publish_retriever(self.registry, self.folder(), seed=seed, parents=[rows.digest])

    def index(self, retriever, *, fusion="lexical"):
        """An index over vectors that mean nothing; searched by words it is right all the same."""
        dim = retriever.facts["dim"] if retriever else 384
        vectors = np.random.default_rng(0).normal(size=(NUM, dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        folder = self.folder()
        write_index(folder, vectors, self.chunks(), search=SearchSettings(fusion=fusion))
        facts = {"encoder": retriever.facts["encoder"], "dim": dim, "retriever": retriever.digest} if retriever else {}
        inputs, parents = {"dataset": self.dataset.digest, "n": self.folders}, [self.dataset.digest]
        parents += [retriever.digest] if retriever else []
        return self.registry.publish("index", "handbook", folder=folder, inputs=inputs, parents=parents, facts=facts)

    def router(self, *, small, large, index, synthetic, registry, settings, context_passages=0):
        inputs = {"small": small.digest, "index": index.digest, "synthetic": synthetic.digest}
        inputs |= {PASSAGES: identity_of(index.digest, context_passages)} if context_passages else {}
        return registry.publish("router", "router", inputs=inputs, parents=[index.digest, small.digest])

    def asked(self, model, *, right=96, grounding=None):
        """An evaluation of a model on a suite, with passages or without."""
        suite = self.questions("suite", "for-models", ["which is 1"])
        about = {"suite": suite.digest, **({PASSAGES: grounding.identity} if grounding else {})}
        return self.play.world.evaluation([1] * right + [0] * (100 - right), model=model, **about)

    def first(self, context_passages=0):
        """The release in production: a small model and the old index."""
        grounding = grounding_of(self.old, context_passages, registry=self.registry)
        plain = self.play.world.evaluation
        evaluation = (
            self.asked(self.small, grounding=grounding) if grounding else plain([1] * 96 + [0] * 4, model=self.small)
        )
        given = self.play.world.evidence(self.small, candidate={"target": evaluation})
        verdict = loop_index.judge(self.play.policy, given, registry=self.registry)
        rows = self.questions("synthetic", "handbook-qa", ["what is 1"])
        router = self.router(
            small=self.small, large=None, index=self.old, synthetic=rows, registry=self.registry, settings=None,
            context_passages=context_passages,
        )  # fmt: skip
        parts = {"small": self.small, "index": self.old, "dataset": self.dataset, "router": router}
        prices = {"small_usd_per_1k_tokens": 0.1}
        policy = self.play.policy_version()
        release = build_release(
            "assistant", verdict=verdict, policy=policy, prices=prices, registry=self.registry,
            context_passages=context_passages, **parts,
        )  # fmt: skip
        ask_about_release(release, verdict=verdict, registry=self.registry)
        return self.into_production(release, verdict)

    def into_production(self, release, verdict):
        self.play.approve(release, verdict, self.jane)
        put_into_production(release, registry=self.registry, reason="a test")
        assert self.play.production() == release.digest
        return release

    def propose(self, index, *, suite=None, policy=None):
        return propose_index(
            "assistant", index=index, suite=suite or self.suite, policy=policy or load_policy("retriever"),
            registry=self.registry, settings=SignalboxSettings(),
        )  # fmt: skip

    def verdict(self, release):
        return self.registry.get("verdict", release.manifest["inputs"]["verdict"])


@pytest.fixture
def house(registry, tmp_path, monkeypatch):
    made = House(stage(registry, tmp_path), tmp_path)
    monkeypatch.setattr(loop_index, "calibrate_router", made.router)
    return made


def reasons(verdict, light="red"):
    return {check["kind"]: check["reason"] for check in verdict.facts["checks"] if check["light"] == light}


def test_an_index_goes_into_production_and_back_while_the_models_stay(house):
    before = house.first()
    index = house.index(house.retriever())
    proposal = house.propose(index)
    assert proposal.verdict.facts["light"] == "amber", reasons(proposal.verdict)  # 60 questions are few
    assert reasons(proposal.verdict, "amber") == {"min_questions": "60 questions on target, at least 30 are asked for"}
    assert replay(proposal.verdict, registry=house.registry).same

    release = proposal.release
    old, new = (parts_of(each, registry=house.registry) for each in (before, release))
    assert (new["small"], new["policy"], new["dataset"]) == (old["small"], old["policy"], old["dataset"])
    assert new["index"] == index
    assert new["router"].manifest["inputs"] == old["router"].manifest["inputs"] | {"index": index.digest}
    assert release.facts["prices"] == before.facts["prices"]
    assert release.manifest["inputs"]["verdict"] == before.manifest["inputs"]["verdict"]
    assert {proposal.verdict.digest, index.digest} <= set(release.parents)
    assert house.propose(index).release == release

    with pytest.raises(ApprovalsMissing):
        put_into_production(release, registry=house.registry, reason="unsigned")
    house.into_production(release, house.verdict(release))
    assert house.play.faults() == []
    assert previous_of(release, registry=house.registry) == before
    rollback(before, registry=house.registry, reason="worse after all")
    assert house.registry.get("release", "assistant@production").facts["index"] == house.old.digest
    assert house.play.faults() == []


@pytest.mark.parametrize("right", [97, 20])
def test_models_that_are_given_passages_are_judged_again_with_those_of_the_new_index(house, monkeypatch, right):
    house.first(context_passages=3)
    index, seen = house.index(house.retriever()), []

    def evaluate(model, suite, *, registry, settings, grounding):
        seen.append((model, suite.name, grounding.identity))
        return house.asked(model, right=right, grounding=grounding)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    proposal = house.propose(index)
    assert seen == [(house.small, "for-models", identity_of(index.digest, 3))]
    if right == 20:
        assert proposal.release is None
        assert "does worse with its passages" in proposal.stopped
        return
    assert passages_of(proposal.release) == 3
    house.into_production(proposal.release, house.verdict(proposal.release))
    assert house.play.faults() == []


def test_the_pack_of_such_a_release_stands_alone(house, tmp_path):
    house.first()
    proposal = house.propose(house.index(house.retriever()))
    release = house.into_production(proposal.release, house.verdict(proposal.release))
    pack, key = tmp_path / "pack.zip", house.registry.workspace.keys_dir / "service.pub"
    write_pack(release, pack, registry=house.registry)
    report = verify_pack(pack, public_key=key)
    assert [fault for fault in map(str, report.faults) if "model small@1" not in fault] == []  # that model has no files
    with zipfile.ZipFile(pack) as members:
        names = members.namelist()
    retriever = house.registry.get("retriever", "tuned")
    assert any(name.startswith("store/retriever/") and name.endswith("model.safetensors") for name in names)
    assert f"attestations/provenance/{retriever.digest[7:23]}.dsse.json" in names


def test_the_next_index_is_asked_what_the_one_before_was_asked_and_must_not_forget(house):
    house.first()
    first = house.propose(house.index(house.retriever()))
    house.into_production(first.release, house.verdict(first.release))
    again = house.questions("suite", "later", [f"word{n} please" for n in range(40)])
    worse = house.propose(house.index(house.retriever(seed=1), fusion="dense"), suite=again)
    assert worse.release is None
    said = reasons(worse.verdict)
    assert {"non_inferior", "forgetting_budget"} <= said.keys()
    assert "retrieval-handbook-asked@" in said["forgetting_budget"]
    better = house.propose(house.index(house.retriever(seed=2)), suite=again)
    assert "change in map_at_10" in reasons(better.verdict, "amber")["improves"]  # as good is for a person to decide
    assert better.release is not None


def test_an_index_for_a_release_that_only_quotes(house):
    facts = {"num_chunks": NUM, "num_documents": 1, "num_rejected": 0}
    house.dataset = house.publish("dataset", CHUNKS_FILE, house.chunks(), schema=CHUNKS, **facts)
    house.old = house.index(None, fusion="dense")
    house.questions("synthetic", "handbook-qa", ["what is 1"], parents=[house.dataset.digest])
    tuned = house.index(house.retriever())
    knowledge = find_knowledge(house.dataset, registry=house.registry)
    assert knowledge.index == house.old != tuned  # no first release comes with an index that nobody judged
    quoting, verdict = build_retrieval_release("assistant", knowledge=knowledge, registry=house.registry)
    house.into_production(quoting, verdict)
    proposal = house.propose(tuned)
    house.into_production(proposal.release, proposal.verdict)
    assert house.play.faults() == []
    model = house.play.world.model()
    assert house.play.world.evidence(model).earlier == ()  # a model is not asked what an index was asked


def test_a_first_release_quotes_and_the_next_is_held_against_it(house):
    bad = house.propose(house.old)
    assert (bad.verdict.facts["light"], bad.release.facts["small"]) == ("amber", None)
    first = house.into_production(bad.release, bad.verdict)
    assert parts_of(first, registry=house.registry)["index"] == house.old
    tuned = house.propose(house.index(house.retriever()))
    assert "change in map_at_10" in reasons(tuned.verdict, "green")["improves"]
    house.into_production(tuned.release, tuned.verdict)
    worse = house.propose(house.index(None, fusion="dense"))
    assert (worse.release, "non_inferior" in reasons(worse.verdict)) == (None, True)
    rollback(first, registry=house.registry, reason="a test")
    assert (house.play.production(), house.play.faults()) == (first.digest, [])


def beside(house, index, index_verdict, **changes):
    """The release in production with another index and whatever verdict, approved; past ``propose_index``."""
    production = house.registry.get("release", "assistant@production")
    parts = parts_of(production, registry=house.registry) | {"index": index} | changes
    verdict = house.verdict(production)
    release = build_release(
        "assistant", **parts, verdict=verdict, index_verdict=index_verdict, prices=production.facts["prices"],
        registry=house.registry,
    )  # fmt: skip
    ask_about_release(release, verdict=verdict, registry=house.registry)
    house.play.approve(release, verdict, house.jane)
    return release


def refused(house, release, error, says):
    before = house.play.production()
    with pytest.raises(error, match=says):
        put_into_production(release, registry=house.registry, reason="quickly")
    assert house.play.production() == before


def test_a_tuned_retriever_without_a_verdict_of_its_own(house):
    house.first()
    index, other = house.index(house.retriever()), house.index(house.retriever(seed=1))
    refused(house, beside(house, index, None), RetrieverRefused, "searches with tuned@1, and no verdict let that")
    judged = house.propose(other).verdict
    refused(house, beside(house, index, judged), RetrieverRefused, "is about index handbook@3, which was made with")
    floor = parse_policy(
        {**LAX, "name": "floor", "checks": [{"kind": "min_metric", "metric": "map_at_10", "threshold": 1}]}
    )
    red = house.propose(house.index(house.retriever(seed=2), fusion="dense"), policy=floor).verdict
    assert red.facts["light"] == "red"
    worse = house.registry.get("index", red.facts["artifact"]["digest"])
    refused(house, beside(house, worse, red), RetrieverRefused, "is red: tune a better retriever")
    same = house.index(house.registry.get("retriever", other.facts["retriever"]))
    put_into_production(beside(house, same, judged), registry=house.registry, reason="its retriever was let through")


def test_a_laxer_policy_of_the_same_name_and_a_stricter_one(house):
    house.first()
    checks = [{"kind": "complete_lineage"}, {"kind": "approvals", "required": 2}]
    strict = parse_policy({**LAX, "name": "four-eyes", "checks": checks})
    index = house.index(house.retriever())
    wanting = house.propose(index, policy=strict).release
    house.play.approve(wanting, house.verdict(wanting), house.jane)
    refused(house, wanting, ApprovalsMissing, "1 of 2 approvals")
    shipped = house.propose(index)
    house.into_production(shipped.release, house.verdict(shipped.release))
    lax = house.propose(house.index(house.retriever(seed=1)), policy=parse_policy(LAX))
    house.play.approve(lax.release, house.verdict(lax.release), house.jane)
    refused(house, lax.release, VerdictRefused, "asks less than retriever@1, by which assistant was promoted before")


def test_an_encoder_that_was_swapped_after_the_verdict(house):
    house.first()
    retriever = house.retriever()
    proposal = house.propose(house.index(retriever))
    house.play.approve(proposal.release, house.verdict(proposal.release), house.jane)
    other = house.registry.folder(house.retriever(seed=1)) / "encoder" / "model.safetensors"
    shutil.copy(other, house.registry.folder(retriever) / "encoder")
    refused(house, proposal.release, ArtifactChanged, "retriever tuned@1: encoder/model.safetensors is not the file")
    assert any("model.safetensors" in fault for fault in house.play.faults())


def test_a_retriever_that_nobody_published(house):
    house.first()
    index = house.index(house.retriever())
    facts = index.facts | {"retriever": "sha256:" + "0" * 64}
    odd = house.registry.publish(
        "index", "odd", folder=house.registry.folder(index), inputs=index.manifest["inputs"] | {"odd": 1},
        parents=index.parents, facts=facts,
    )  # fmt: skip
    says = r"index odd@1 was made with a retriever that is not in the registry \(sha256:0"
    with pytest.raises(RetrieverMismatch, match=says):
        house.propose(odd)
    refused(house, beside(house, odd, house.propose(index).verdict), RetrieverMismatch, says)


def test_questions_that_were_seen_before_or_committed_after_the_tuning(house):
    house.first()
    seen = house.retriever(on=house.questions("synthetic", "leaked", [f"Word{n}" for n in range(5)]))
    assert "5 of 60 questions of asked@1 (target)" in reasons(house.propose(house.index(seen)).verdict)["contamination"]
    on_suite = house.index(house.retriever(seed=3, on=house.suite))
    assert "60 of 60 questions" in reasons(house.propose(on_suite).verdict)["contamination"]
    late = house.questions("suite", "late", [f"word{n} now" for n in range(NUM)])
    said = reasons(house.propose(house.index(house.retriever(seed=4)), suite=late).verdict)
    assert not said
    index = house.index(house.retriever(seed=5))
    later = house.questions("suite", "later", [f"word{n} soon" for n in range(NUM)])
    assert "came after retriever tuned" in reasons(house.propose(index, suite=later).verdict)["suite_committed"]


def test_an_evaluation_of_another_index_is_handed_in(house):
    from app.governance.evidence import Evidence
    from app.retrieval.evaluate import evaluate_index

    house.first()
    good, bad = house.index(house.retriever()), house.index(house.retriever(seed=1), fusion="dense")
    figures = evaluate_index(good, house.suite, registry=house.registry)
    evidence = Evidence.collect(bad, registry=house.registry, candidate={"target": figures})
    verdict = loop_index.judge(load_policy("retriever"), evidence, registry=house.registry)
    assert f"evaluation {figures.ref} is not of index {bad.ref}" in reasons(verdict)["own_evaluations"]


def test_another_index_of_the_pinned_encoder_is_judged_too_and_may_go_without(house):
    house.first()
    plain = house.index(None)
    proposal = house.propose(plain)
    assert proposal.release is not None, reasons(proposal.verdict)
    assert "0 of 60 questions" in reasons(proposal.verdict, "green")["contamination"]
    release = beside(house, plain, None)
    promote(
        release, verdict=house.verdict(release), registry=house.registry, policy=house.play.policy, reason="as before"
    )
    assert house.play.production() == release.digest
