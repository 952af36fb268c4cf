"""Attacks on answers after the fact: what was asked, what was answered, by which release and when."""

import asyncio
import copy
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.ledger.batches import batch_statement, read_part, read_receipts, receipts_path, seal, write_part, write_table
from app.ledger.keys import Signer
from app.ledger.log import Ledger
from app.ledger.receipts import HEADER, ReceiptUnreadable, check_receipt
from app.ledger.verify import verify
from app.registry.versions import open_registry
from app.serving.http import create_app
from app.serving.log import receipt_proof
from tests.serving.conftest import backends, gateway, make_gateway, make_release, releases, request_log  # noqa: F401
from tests.serving.test_gateway import wait_for

NUM_ROWS = 5
RELEASE = make_release()
RECORD_TIME = datetime(2026, 11, 22, 9, tzinfo=UTC)


def record(number):
    question = {"messages": [{"role": "user", "content": f"question {number}"}]}
    more = {"question": f"question {number}", "answer": "2,000 euros", "embedding": [0.1 * number] * 4, "status": 200}
    given = {"request_json": question, "response_json": {"answer": "2,000 euros", "n": number}}
    return {"request_id": f"r{number}", "time": RECORD_TIME, "release": RELEASE.digest, **more, **given}


@pytest.fixture
def logged(registry):
    """A workspace with one part of five requests in its ledger; headers by request id."""
    folder = registry.workspace.requests_dir
    folder.mkdir()
    sealed = [seal(record(number)) for number in range(NUM_ROWS)]
    write_part(folder / "part.parquet", sealed)
    registry.ledger.append([batch_statement(folder / "part.parquet")])
    registry.headers = {each.row["request_id"]: each.header for each in sealed}
    return registry


def proof_for(registry, request_id="r2"):
    proof = receipt_proof(registry.workspace.requests_dir, registry.ledger, request_id)
    assert proof is not None
    return json.loads(json.dumps(proof))


def check(registry, proof, number=2, **changed):
    asked = {"request": record(number)["request_json"], "response": record(number)["response_json"]}
    options = {"verifier": registry.ledger.signer.public, "header": registry.headers[f"r{number}"]}
    return check_receipt(proof, **{**options, **asked, **changed})


def faults(registry):
    """What is wrong with the log itself; that its releases were never promoted is a test of its own."""
    found = verify(registry.workspace).faults
    return {(fault.kind, fault.where) for fault in found if fault.kind != "unpromoted-release"}


def test_answers_of_a_release_that_was_never_promoted_are_named(logged):
    named = [fault for fault in verify(logged.workspace).faults if fault.kind == "unpromoted-release"]
    assert len(named) == 1
    assert "which was never promoted" in str(named[0])


@pytest.mark.parametrize("number", range(NUM_ROWS))
def test_a_receipt_proves_request_response_release_and_time(logged, number):
    checked = check(logged, proof_for(logged, f"r{number}"), number)
    assert checked.faults == []
    assert RELEASE.digest in checked.proven[0]
    assert "2026-11-22T09:00:00.000000Z" in checked.proven[0]
    assert len(checked.proven) == 5
    assert not faults(logged)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("release", "sha256:" + "b" * 64),
        ("time", "2026-11-22T08:00:00.000000Z"),
        ("request_id", "r3"),
        ("response", "sha256:" + "0" * 64),
    ],
)
def test_a_forged_receipt_is_refused(logged, field, value):
    proof = proof_for(logged)
    proof["receipt"][field] = value
    found = " ".join(check(logged, proof).faults)
    assert "not in the batch" in found
    assert "another receipt" in found


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"response": {"answer": "3,000 euros", "n": 2}}, "the response is not the one"),
        ({"request": {"messages": []}}, "the request is not the one"),
        ({"response": {"answer": "2,000 euros", "n": 2.0}}, ""),
    ],
)
def test_an_altered_answer_with_a_true_receipt_is_refused(logged, changed, says):
    checked = check(logged, proof_for(logged), **changed)
    assert checked.faults == ([] if not says else checked.faults)
    assert says in " ".join(checked.faults)
    assert bool(checked.faults) == bool(says)


def test_the_header_of_another_answer_is_refused(logged):
    checked = check(logged, proof_for(logged), header=logged.headers["r3"])
    assert "the header is of another receipt" in checked.faults


def test_a_receipt_of_another_log_is_refused(logged, tmp_path):
    """An operator who keeps a second log for show, under a key of the same name."""
    forger = Ledger(logged.database, Signer.generate("service", "service"))
    forger.append([batch_statement(logged.workspace.requests_dir / "part.parquet")])
    forged = receipt_proof(logged.workspace.requests_dir, forger, "r2")
    found = check(logged, forged).faults
    assert len(found) == 1
    assert "cannot be trusted" in found[0]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda proof: proof["batch"].update(index=1),
        lambda proof: proof["batch"].update(size=4),
        lambda proof: proof["batch"]["proof"].pop(),
        lambda proof: proof["ledger"].update(index=7),
        lambda proof: proof["ledger"]["proof"].append("00" * 32),
        lambda proof: proof["ledger"].update(leaf=proof["ledger"]["leaf"].replace("gateway", "nobody")),
        lambda proof: proof["ledger"].update(checkpoint=proof["ledger"]["checkpoint"].replace("\n1\n", "\n2\n")),
    ],
)
def test_every_part_of_a_proof_counts(logged, tamper):
    proof = proof_for(logged)
    assert not check(logged, copy.deepcopy(proof)).faults
    tamper(proof)
    assert check(logged, proof).faults


@pytest.mark.parametrize(("where", "number"), [("batch", "index"), ("batch", "size"), ("ledger", "index")])
@pytest.mark.parametrize(
    "spell", [str, float, bool, lambda value: f" {value} "], ids=["text", "float", "bool", "padded"]
)
def test_a_place_that_is_almost_a_number_is_refused(logged, where, number, spell):
    proof = proof_for(logged)
    proof[where][number] = spell(proof[where][number])
    with pytest.raises(ReceiptUnreadable):
        check(logged, proof)


HOSTILE = [None, -1, 1e999, 2**70, "", "x", "\ud800", [], {}, True]


def test_a_hostile_proof_is_refused_and_breaks_nothing(logged):
    whole = proof_for(logged)
    places = [(outer, inner) for outer in ("receipt", "batch", "ledger") for inner in whole[outer]]
    for outer, inner in [*places, ("receipt", None), ("batch", None), ("ledger", None)]:
        for value in HOSTILE:
            if inner and not value and not whole[outer][inner]:
                continue  # nothing in place of nothing
            proof = copy.deepcopy(whole)
            if inner is None:
                proof[outer] = value
            else:
                proof[outer][inner] = value
            try:
                assert check(logged, proof).faults, (outer, inner, value)
            except ReceiptUnreadable:
                continue


def change_rows(registry, change):
    """Rewrite the part as a reader sees it; its receipts stay."""
    part = registry.workspace.requests_dir / "part.parquet"
    write_table(part, pa.Table.from_pylist(change(read_part(part).to_pylist()), schema=read_part(part).schema))


COLUMNS = {
    "answer": "3,000 euros",
    "release": "sha256:" + "b" * 64,
    "cost_usd": 1.0,
    "embedding": [0.0] * 4,
    "response_json": "{}",
    "request_json": "{}",
    "citations": [],
    "status": 500,
    "salt": bytes(32),
    "latency_s": 0.0,
}


@pytest.mark.parametrize("column", sorted(COLUMNS))
def test_a_changed_row_is_named(logged, column):
    def change(rows):
        rows[2][column] = COLUMNS[column]
        return rows

    change_rows(logged, change)
    assert faults(logged) == {("changed-row", "request log part.parquet, request r2")}


def test_a_removed_row_is_named(logged):
    change_rows(logged, lambda rows: [row for row in rows if row["request_id"] != "r3"])
    assert faults(logged) == {("missing-row", "request log part.parquet, request r3")}


def test_an_added_row_is_named(logged):
    change_rows(logged, lambda rows: [*rows, {**rows[0], "request_id": "r99"}])
    assert faults(logged) == {("extra-row", "request log part.parquet, request r99")}


def test_reordered_rows_are_named(logged):
    change_rows(logged, lambda rows: [rows[0], rows[2], rows[1], *rows[3:]])
    assert faults(logged) == {("reordered-rows", "request log part.parquet, request r2")}


def test_a_changed_receipt_is_named(logged):
    path = receipts_path(logged.workspace.requests_dir / "part.parquet")
    path.write_text(path.read_text().replace('"request_id":"r1"', '"request_id":"r8"'))
    assert faults(logged) == {("changed-receipt", "request log part.parquet, request r1")}


def test_reordered_receipts_are_named(logged):
    part = logged.workspace.requests_dir / "part.parquet"
    lines = read_receipts(part)
    receipts_path(part).write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    assert {where for _, where in faults(logged)} == {f"request log part.parquet, request r{n}" for n in (0, 1)}


def test_a_row_and_its_receipt_changed_to_fit_show_in_the_root(logged):
    """Whoever holds the salts can make them agree, but not with the ledger's leaf."""
    folder = logged.workspace.requests_dir
    write_part(folder / "part.parquet", [seal(record(number)) for number in range(NUM_ROWS)])
    assert faults(logged) == {("changed-batch", "request log part.parquet")}


@pytest.mark.parametrize("name", ["part.parquet", "part.receipts"])
def test_missing_files_are_named(logged, name):
    (logged.workspace.requests_dir / name).unlink()
    found = faults(logged)
    assert ("missing-file", "request log part.parquet") in found
    lost = {where for kind, where in found if kind == "missing-row"}
    everyone = {f"request log part.parquet, request r{number}" for number in range(NUM_ROWS)}
    assert lost == (everyone if name.endswith("parquet") else set())


def test_a_flipped_byte_of_a_column_is_found_wherever_it_is(logged):
    """Footer bytes that no reader looks at may differ; what any reader reads may not."""
    part = logged.workspace.requests_dir / "part.parquet"
    whole, same = part.read_bytes(), pq.read_table(part)
    for at in range(0, len(whole), 97):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        if not faults(logged):
            assert pq.read_table(part).equals(same), at
    part.write_bytes(whole)
    assert not faults(logged)


def test_the_client_checks_answers_streams_and_errors_with_files_alone(
    gateway,  # noqa: F811
    releases,  # noqa: F811
    request_log,  # noqa: F811
    workspace,
    tmp_path,
):
    releases["r"] = RELEASE
    asyncio.run(gateway.take("r"))
    body = {"messages": [{"role": "user", "content": "What is the fee?", "name": "jane"}], "user": "u-1", "top_p": 1.0}
    key = tmp_path / "log.pub"
    key.write_bytes((workspace.keys_dir / "service.pub").read_bytes())
    with TestClient(create_app(gateway)) as http:
        for number, more in enumerate(({}, {"stream": True}, {"stream": True, "model": "large"}, {"model": "gpt-4"})):
            headers = {"x-request-id": f"r{number}"}
            assert http.get(f"/v1/receipts/r{number}").status_code == 404
            answer = http.post("/v1/chat/completions", json=body | more, headers=headers)
            wait_for(lambda number=number: http.get(f"/v1/receipts/r{number}").status_code == 200)
            proof = http.get(f"/v1/receipts/r{number}").text
            files = {"proof": proof, "request": json.dumps(body | more), "response": answer.text}
            for name, text in files.items():
                (tmp_path / name).write_text(text, encoding="utf-8")
            header = answer.headers.get(HEADER, "")  # a live stream carries it in its last chunk
            assert receipt_check(tmp_path, key, header).exit_code == 0
            verified = CliRunner().invoke(app, ["verify", "--receipt", str(tmp_path / "proof"), "--key", str(key)])
            assert (verified.exit_code, f"request r{number} was answered" in verified.stdout) == (0, True)
            (tmp_path / "response").write_text(
                answer.text.replace("2000", "3000").replace("2,000", "3,000").replace("gpt-4", "gpt-5")
            )
            refused = receipt_check(tmp_path, key, header)
            assert (refused.exit_code, "response is not the one" in refused.stdout) == (1, True)


def receipt_check(folder: Path, key: Path, header: str):
    files = ["--request", str(folder / "request"), "--response", str(folder / "response")]
    arguments = ["receipt", "check", str(folder / "proof"), "--key", str(key), "--header", header, *files]
    return CliRunner().invoke(app, arguments)


def test_the_same_request_id_twice_stays_two_requests(registry):
    registry = open_registry(registry.workspace)
    folder = registry.workspace.requests_dir
    folder.mkdir()
    write_part(folder / "part.parquet", [seal(record(1)), seal(record(1) | {"answer": "another"})])
    registry.ledger.append([batch_statement(folder / "part.parquet")])
    assert faults(registry) == set()
