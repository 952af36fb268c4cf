"""Blast radius: what came from one document is listed, what only stands beside it is not."""

import json

import pytest

from app.core.clock import utc_now
from app.core.parquet import write_rows
from app.governance.erasure import erase
from app.governance.graph import NothingToTrace
from app.governance.impact import find_impact
from app.ledger.batches import write_part
from tests.governance.served import CHUNK, CHUNKS, DOCUMENTS, ROW, ROWS

FEES = "sha256:d1"


def refs(impact, kind):
    return [touched.version.ref for touched in impact.of_kind(kind)]


@pytest.mark.parametrize("document", [FEES, "fees.md"])
def test_a_document_reaches_the_release_and_its_answer(served, document):
    registry, release = served
    found = find_impact(registry, document)
    assert found.documents == {FEES: ["fees.md"]}
    assert found.chunks["chunk_id"].to_pylist() == ["sha256:c1"]
    assert found.rows["row_id"].to_pylist() == ["sha256:r1", "sha256:r2"]
    assert found.answers.to_pylist() == [
        {"request_id": "r-1", "release": release.digest, "route": "small", "cites": True, "taught": True}
    ]
    assert refs(found, "verdict") == ["candidate-small@1", "release-handbook@1"]
    for kind in ("dataset", "index", "synthetic", "model", "router", "evaluation", "approval", "release"):
        assert len(refs(found, kind)) == 1, kind
    assert not refs(found, "policy")
    assert found.counts()["answers that cite it"] == 1


def test_a_document_without_rows_reaches_the_index_but_no_model(served):
    found = find_impact(served[0], "doc3.md")
    assert refs(found, "index") == ["handbook@1"]
    assert refs(found, "release") == ["handbook@1"]
    assert not refs(found, "synthetic")
    assert not refs(found, "model")
    assert found.answers.num_rows == 0


def publish_second(registry, world, *, with_fees):
    """The next version of dataset, rows and model; what serves is still the first."""
    folder = world.folder()
    documents = [{"document_id": FEES, "source": "fees.md"}] if with_fees else []
    write_rows(
        folder / "documents.parquet", [*documents, {"document_id": "sha256:n", "source": "new.md"}], schema=DOCUMENTS
    )
    write_rows(folder / "chunks.parquet", [CHUNK] if with_fees else [], schema=CHUNKS)
    dataset = registry.publish("dataset", "handbook", folder=folder, inputs={"d": 2})
    folder = world.folder()
    write_rows(folder / "rows.parquet", [ROW] if with_fees else [], schema=ROWS)
    rows = registry.publish("synthetic", "handbook-qa", folder=folder, inputs={"s": 2}, parents=[dataset.digest])
    registry.publish("model", "small", inputs={"m": 2}, parents=[rows.digest])


@pytest.mark.parametrize("with_fees", [True, False])
def test_a_later_version_counts_only_when_it_still_holds_the_document(served, world, with_fees):
    registry, _ = served
    publish_second(registry, world, with_fees=with_fees)
    found = find_impact(registry, FEES)
    for kind, name in (("dataset", "handbook"), ("synthetic", "handbook-qa"), ("model", "small")):
        assert refs(found, kind) == [f"{name}@1"] + ([f"{name}@2"] if with_fees else [])
    assert found.counts()["chunks"] == 1
    assert found.chunks.num_rows == 1 + with_fees


def test_what_to_make_again_stands_in_order_with_what_serves_first(served, world):
    registry, _ = served
    publish_second(registry, world, with_fees=True)
    steps = find_impact(registry, FEES).rebuild()
    assert [step["step"] for step in steps] == ["re-ingest", "re-index", "synthesise", "retrain", "evaluate", "promote"]
    assert [(each["ref"], each["in_production"]) for each in steps[3]["versions"]] == [
        ("small@1", True),
        ("small@2", False),
    ]


def test_an_answer_by_a_touched_model_counts_without_a_citation(served):
    registry, release = served
    row = {"question": "?", "answer": "!", "citations": [], "release": release.digest, "time": utc_now()}
    others = [{**row, "request_id": "r-2", "route": "small"}, {**row, "request_id": "r-3", "route": "extractive"}]
    write_part(registry.workspace.requests_dir / "waiting.parquet", others)
    answers = find_impact(registry, FEES).answers.to_pylist()
    assert {row["request_id"]: (row["cites"], row["taught"]) for row in answers} == {
        "r-1": (True, True),
        "r-2": (False, True),
    }


def test_all_of_it_is_json_and_a_stranger_is_refused_with_the_nearest_name(served, registry):
    whole = json.loads(json.dumps(find_impact(served[0], FEES).to_dict()))
    assert whole["counts"]["synthetic rows"] == 2
    with pytest.raises(NothingToTrace, match=r"did you mean fees\.md"):
        find_impact(served[0], "fee.md")


def test_an_empty_ledger_knows_no_document(registry):
    with pytest.raises(NothingToTrace, match="ingest documents first"):
        find_impact(registry, FEES)


def test_an_erased_document_is_told_with_its_leaf(served):
    registry, _ = served
    leaf = erase(registry, documents=[FEES], reason="asked for", actor="service").leaf
    with pytest.raises(NothingToTrace, match=f"leaf {leaf} erased it"):
        find_impact(registry, FEES)
