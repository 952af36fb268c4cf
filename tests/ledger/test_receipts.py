import json

import pytest

from app.core.clock import utc_now
from app.core.digests import canonical_json
from app.ledger import merkle
from app.ledger.batches import find_receipt, read_part, read_receipts, root_of, row_leaves, seal, write_part
from app.ledger.receipts import ReceiptUnreadable, canonical_text, commit, read_header, salt_of

FULL = {
    "request_id": "r1",
    "time": utc_now(),
    "release": "sha256:" + "a" * 64,
    "route": "small",
    "question": "Wie hoch ist die Gebühr? \u2028 \ud800",
    "answer": "2.000 €\n\x7f",
    "citations": [{"document_id": "d", "chunk_id": "c", "source": "loans.md", "title": "Loans", "heading": "Fees"}],
    "confidence": 1,
    "cost_usd": 1e-07,
    "embedding": [0.1, -2.5, 3e-8],
    "status": 200,
    "request_json": {"messages": [{"role": "user", "content": "Wie hoch?"}]},
    "response_json": {"n": 1.0, "tiny": 1e-7, "text": "€"},
}
RECORDS = [FULL, {"request_id": 'odd "id"', "time": utc_now()}, {"request_id": "é", "time": utc_now(), "error": "gone"}]


def test_a_receipt_is_canonical_and_commits_to_request_and_response():
    sealed = seal(FULL)
    receipt = json.loads(sealed.leaf)
    assert canonical_json(receipt).decode() == sealed.leaf
    assert set(receipt) == {"request_id", "time", "release", "request", "response", "record"}
    for part in ("request", "response"):
        opened = commit(salt_of(sealed.row["salt"], part), canonical_json(FULL[f"{part}_json"]))
        assert receipt[part] == opened
    assert seal(FULL).leaf != sealed.leaf, "the same request twice gives receipts that nobody can match"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["request_id"])
def test_the_header_is_small_and_reads_back(record):
    sealed = seal(record)
    header = read_header(sealed.header)
    assert len(sealed.header) < 400
    assert header["id"] == record["request_id"]
    assert "=" not in sealed.header


@pytest.mark.parametrize("value", ["", "x", "e30", "bnVsbA", "WyJpZCJd", "é"])
def test_a_damaged_header_is_refused(value):
    with pytest.raises(ReceiptUnreadable, match="x-signalbox-receipt"):
        read_header(value)


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"a": 2**60}, {"a": float("nan")}])
def test_what_canonical_json_refuses_is_committed_to_all_the_same(value):
    assert canonical_text(value).isascii()


def test_rows_read_back_ask_for_the_receipts_that_were_given(tmp_path):
    part = tmp_path / "part.parquet"
    sealed = [seal(record) for record in RECORDS]
    write_part(part, sealed)
    assert list(row_leaves(read_part(part))) == read_receipts(part) == [each.leaf for each in sealed]
    assert read_part(part)["confidence"].to_pylist()[0] == 1.0


def test_a_request_is_found_by_its_whole_id(tmp_path):
    for number, records in enumerate((RECORDS, [{"request_id": "r10", "time": utc_now()}])):
        write_part(tmp_path / f"{number}.parquet", records)
    for record in RECORDS:
        part, receipts, leaf = find_receipt(tmp_path, record["request_id"])
        assert (part.name, len(receipts)) == ("0.parquet", 3)
        assert json.loads(leaf)["request_id"] == record["request_id"]
    assert find_receipt(tmp_path, "r") is None
    assert find_receipt(tmp_path / "nowhere", "r1") is None


def test_the_root_is_the_merkle_root_over_the_receipts(tmp_path):
    part = tmp_path / "part.parquet"
    write_part(part, RECORDS)
    hashes = [merkle.leaf_hash(leaf.encode()) for leaf in read_receipts(part)]
    assert root_of(read_receipts(part)) == "sha256:" + merkle.root_of(hashes).hex()
