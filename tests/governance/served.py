"""A promoted release with real tables behind it, and one answer in the request log."""

import pyarrow as pa

from app.core.clock import utc_now
from app.core.parquet import write_rows
from app.governance.approvals import approve
from app.governance.gate import judge
from app.governance.promotion import promote
from app.governance.release import build_release
from app.governance.stoplights import ask_about_release
from app.ledger.batches import batch_statement, write_part

TEXT = pa.string()
DOCUMENTS = pa.schema([("document_id", TEXT), ("source", TEXT)])
CHUNKS = pa.schema(
    [(name, TEXT) for name in ("chunk_id", "document_id", "source", "title", "text")]
    + [("heading_path", pa.list_(TEXT))]
)
ROWS = pa.schema(
    [(name, TEXT) for name in ("row_id", "question", "answer", "chunk_id", "document_id", "method", "split")]
)
CHUNK = {"chunk_id": "sha256:c1", "document_id": "sha256:d1", "source": "fees.md", "title": "Fees"}
CHUNK |= {"text": "The fee is 12 crowns.", "heading_path": ["Fees", "Cards"]}
ROW = {"row_id": "sha256:r1", "question": "What is the card fee?", "answer": "12 crowns", "chunk_id": "sha256:c1"}
ROW |= {"document_id": "sha256:d1", "method": "table", "split": "train"}


def build_served(world, policy):
    """A promoted release with real tables, and one logged answer."""
    registry = world.registry
    folder = world.folder()
    documents = [{"document_id": f"sha256:d{n}", "source": "fees.md" if n == 1 else f"doc{n}.md"} for n in range(8)]
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
    release = build_release(
        "handbook", verdict=verdict, registry=registry, prices={"small_usd_per_1k_tokens": 0.1}, **parts
    )
    ask_about_release(release, verdict=verdict, registry=registry)
    meaning = "approved for production"
    approve(verdict, release, signer=world.signer(), printed_name="Jane Doe", meaning=meaning, registry=registry)
    promote(release, verdict=verdict, registry=registry, policy=policy, reason="test")
    _log_answer(registry, release)
    return registry, release


def _log_answer(registry, release):
    citation = {key: CHUNK[key] for key in ("chunk_id", "document_id", "source", "title")} | {"heading": "Fees > Cards"}
    row = {"request_id": "r-1", "question": "card fee?", "answer": "12 Crowns.", "route": "small", "model": "small@1"}
    row |= {"release": release.digest, "citations": [citation], "time": utc_now()}
    path = registry.workspace.requests_dir / "part.parquet"
    path.parent.mkdir()
    write_part(path, [row])
    registry.ledger.append([batch_statement(path)])
