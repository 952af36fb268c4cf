"""Lineage: from a release, and from one answer, down to documents, with verdict and approvals on the way."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from app.core.digests import digest_bytes, digest_file
from app.core.parquet import write_rows
from app.governance.approvals import approve
from app.governance.gate import judge
from app.governance.lineage import NothingToTrace, find_answer, render, render_text, trace, trace_answer
from app.governance.promotion import promote
from app.governance.release import build_release
from app.ledger.log import Statement

TEXT = pa.string()
DOCUMENTS = pa.schema([("document_id", TEXT), ("source", TEXT)])
CHUNKS = pa.schema(
    [(name, TEXT) for name in ("chunk_id", "document_id", "source", "title", "text")]
    + [("heading_path", pa.list_(TEXT))]
)
ROWS = pa.schema([(name, TEXT) for name in ("row_id", "question", "answer", "chunk_id", "method", "split")])
CHUNK = {"chunk_id": "sha256:c1", "document_id": "sha256:d1", "source": "fees.md", "title": "Fees"}
CHUNK |= {"text": "The fee is 12 crowns.", "heading_path": ["Fees", "Cards"]}
ROW = {"row_id": "sha256:r1", "question": "What is the card fee?", "answer": "12 crowns", "chunk_id": "sha256:c1"}
ROW |= {"method": "table", "split": "train"}


@pytest.fixture
def served(world, policy):
    """A promoted release with real tables, and one logged answer."""
    registry = world.registry
    folder = world.folder()
    documents = [{"document_id": f"sha256:d{n}", "source": f"doc{n}.md"} for n in range(8)]
    write_rows(folder / "documents.parquet", documents, schema=DOCUMENTS)
    write_rows(folder / "chunks.parquet", [CHUNK], schema=CHUNKS)
    dataset = registry.publish("dataset", "handbook", folder=folder, inputs={"d": 1}, facts={"num_documents": 8})
    folder = world.folder()
    other = {**ROW, "row_id": "sha256:r2", "answer": "13 crowns"}
    write_rows(folder / "rows.parquet", [ROW, other], schema=ROWS)
    synthetic = registry.publish(
        "synthetic", "handbook-qa", folder=folder, inputs={"s": 1}, parents=[dataset.digest], facts={"num_rows": 2}
    )
    model = world.model(parents=[synthetic.digest])
    evidence = world.evidence(model, candidate={"target": world.evaluation([1] * 50, model=model)})
    verdict = judge(policy, evidence, registry=registry)
    index = registry.publish("index", "handbook", inputs={"i": 1}, parents=[dataset.digest])
    router = registry.publish("router", "handbook", inputs={"r": 1}, parents=[model.digest])
    parts = {"small": model, "index": index, "dataset": dataset, "router": router}
    release = build_release("handbook", verdict=verdict, registry=registry, **parts)
    meaning = "approved for production"
    approve(verdict, release, signer=world.signer(), printed_name="Jane Doe", meaning=meaning, registry=registry)
    promote(release, verdict=verdict, registry=registry, policy=policy, actor="demo")
    _log_answer(registry, release)
    return registry, release


def _log_answer(registry, release):
    citation = {key: CHUNK[key] for key in ("chunk_id", "document_id", "source", "title")} | {"heading": "Fees > Cards"}
    row = {"request_id": "r-1", "question": "card fee?", "answer": "12 Crowns.", "route": "small", "model": "small@1"}
    row |= {"release": release.digest, "citations": [citation]}
    path = registry.workspace.requests_dir / "part.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([row]), path)
    registry.ledger.append([Statement(kind="request-batch", subject=digest_file(path), name=path.name)])


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
