"""Lineage: from a release, and from one answer, down to documents, with verdict and approvals on the way."""

import io
import json

import pytest
from rich.console import Console

from app.console.lineage import render, render_text
from app.core.digests import digest_bytes
from app.governance.erasure import erase
from app.governance.graph import Graph, NothingToTrace
from app.governance.lineage import find_answer, trace, trace_answer, trace_any
from app.ledger.log import Statement


def test_a_release_leads_to_documents_verdict_and_approval(served):
    registry, release = served
    tree = trace(registry, release.digest)
    kinds = {node.kind for node in tree.walk()}
    assert {"model", "synthetic", "dataset", "document", "index", "router", "verdict", "policy", "approval"} <= kinds
    assert {"evaluation", "promotion"} <= kinds
    assert "unknown" not in kinds
    assert tree.find("verdict")[0].detail == "green, candidate gate for small@1"
    assert "Jane Doe (approver/jane)" in tree.find("approval")[0].detail


def test_a_version_met_again_is_not_repeated(served):
    registry, release = served
    tree = trace(registry, release.digest)
    repeated = [node for node in tree.find("dataset") if node.detail == "see above"]
    assert repeated
    assert all(not node.children for node in repeated)
    assert len(tree.find("document")) == 5
    assert [node.label for node in tree.find("documents")] == ["and 3 more"]


def test_an_answer_leads_to_its_chunk_document_and_training_row(served):
    registry, release = served
    tree = trace_answer(registry, find_answer(registry, "r-1"))
    assert tree.find("request-batch")[0].detail.startswith("leaf ")
    taught = tree.find("synthetic row")
    assert [node.digest for node in taught] == ["sha256:r1"]
    for node in (tree.find("citation")[0], taught[0]):
        assert node.find("chunk")[0].label == "Fees > Cards"
        assert node.find("document")[0].label == "fees.md"
        assert node.find("dataset")[0].label == "handbook@1"
    assert tree.find("release")[0].digest == release.digest
    assert tree.find("approval")


def test_an_extractive_answer_has_no_training_row(served):
    registry, _ = served
    row = {**find_answer(registry, "r-1"), "route": "extractive"}
    assert trace_answer(registry, row).find("synthetic row") == []


def test_what_is_not_there_is_shown_or_refused(served, world):
    registry, _ = served
    with pytest.raises(NothingToTrace, match="has no sha256"):
        trace(registry, digest_bytes(b"nothing"))
    with pytest.raises(NothingToTrace, match="x-request-id"):
        find_answer(registry, "r-2")
    row = find_answer(registry, "r-1")
    row["citations"][0]["chunk_id"] = "sha256:other"
    assert "in no dataset" in trace_answer(registry, row).find("chunk")[0].label
    assert trace_answer(registry, {**row, "part": "new"}).find("request-batch")[0].label == "not in the ledger yet"
    assert trace_answer(registry, {**row, "release": digest_bytes(b"x")}).find("unknown")
    orphan = world.model(parents=[digest_bytes(b"x")])
    assert trace(registry, orphan.digest).find("unknown")[0].digest == digest_bytes(b"x")


def test_the_tree_is_drawn_as_text_json_and_rich(served):
    registry, release = served
    tree = trace_answer(registry, find_answer(registry, "r-1"))
    text = render_text(tree)
    assert text.startswith("answer  '12 Crowns.'")
    assert f"  release  handbook@1  {release.short}" in text
    assert json.loads(json.dumps(tree.to_dict()))["kind"] == "answer"
    console = Console(file=io.StringIO(), width=200)
    console.print(render(tree))
    drawn = console.file.getvalue()
    assert all(node.label[:20] in drawn for node in tree.walk())


@pytest.mark.parametrize("ref", ["handbook", "handbook@1", "release/handbook", "release/handbook@production"])
def test_a_release_answers_to_its_names(served, ref):
    registry, release = served
    assert Graph(registry).find(ref) == release.digest


@pytest.mark.parametrize(
    ("ref", "kind"), [("small", "model"), ("dataset/handbook", "dataset"), ("handbook-qa@1", "synthetic")]
)
def test_other_versions_answer_to_theirs(served, ref, kind):
    assert trace_any(served[0], ref).kind == kind


@pytest.mark.parametrize(("ref", "said"), [("nothing", "none of that name"), ("handbook@7", "none of that name")])
def test_a_name_that_says_nothing_is_refused(served, ref, said):
    with pytest.raises(NothingToTrace, match=said):
        trace_any(served[0], ref)


def test_a_name_of_two_kinds_asks_which(served):
    registry, _ = served
    for kind in ("policy", "suite"):
        registry.publish(kind, "twice", inputs={})
    with pytest.raises(NothingToTrace, match="policy/twice, suite/twice"):
        trace_any(registry, "twice")


def test_a_request_id_is_traced_as_an_answer(served):
    assert trace_any(served[0], "r-1").kind == "answer"


def test_onwards_leads_from_a_dataset_to_the_release(served):
    registry, release = served
    tree = trace_any(registry, "dataset/handbook", onwards=True)
    assert release.digest in {node.digest for node in tree.walk()}
    assert tree.find("promotion")
    assert not trace_any(registry, "release/handbook", onwards=True).find("model")


def test_merged_has_every_thing_once_and_the_edges_of_the_tree(served):
    registry, _ = served
    tree = trace_answer(registry, find_answer(registry, "r-1"))
    nodes, edges = tree.merged()
    assert len(nodes) < len(list(tree.walk()))
    assert not any(node.again for node in nodes.values())
    assert len(set(edges)) == len(edges)
    assert {end for edge in edges for end in edge} == set(nodes)


def test_a_training_run_stands_between_a_model_and_its_data(served, world):
    registry, _ = served
    parent = registry.get("synthetic", "handbook-qa").digest
    model = registry.publish("model", "ran", inputs={}, parents=[parent], facts={"run_id": "run-7"})
    tree = trace(registry, model.digest)
    assert [node.kind for node in tree.children] == ["run"]
    assert tree.children[0].children[0].digest == parent


def test_a_second_leaf_about_a_version_adds_no_edge(served):
    registry, release = served
    forged = digest_bytes(b"forged")
    for payload in (release.digest, ""):
        statement = Statement("release", release.digest, name="handbook", parents=(forged,), payload=payload)
        registry.ledger.append([statement])
    assert forged not in {node.digest for node in trace(registry, release.digest).walk()}


def test_what_was_erased_is_told_with_its_leaf(served):
    registry, release = served
    row = find_answer(registry, "r-1")
    leaf = erase(registry, documents=["sha256:d1"], reason="asked for", actor="service").leaf
    erased = trace(registry, release.digest).find("erasure")
    assert {node.label for node in erased} == {f"leaf {leaf}"}
    assert any("chunks.parquet" in node.detail for node in erased)
    assert trace_answer(registry, row).find("chunk")[0].label == f"erased by leaf {leaf}"
