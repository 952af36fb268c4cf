"""What an attacker makes of erasures: nobody can delete, alter or hide anything under the name of one."""

import copy
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.core.digests import digest_file
from app.core.errors import UsageError
from app.core.parquet import write_rows
from app.core.workspace import Workspace
from app.governance.erasure import erase
from app.governance.gate import replay
from app.governance.graph import NothingToTrace
from app.governance.impact import find_impact
from app.governance.lineage import AnswerErased, trace_any
from app.governance.pack.verify import verify_pack
from app.governance.pack.write import write_pack
from app.ledger.batches import read_part, write_table
from app.ledger.log import ERASURE, Statement
from app.ledger.verify import verify
from app.registry.tables import CHUNKS
from app.registry.versions import open_registry
from tests.attacks.erasable import NAME, erasable
from tests.governance.pack.world import play


@pytest.fixture
def world(registry, tmp_path):
    return erasable(registry, tmp_path)


def faults(registry):
    return {(fault.kind, fault.where) for fault in verify(registry.workspace).faults}


def record_of(registry, *entries, kind=ERASURE):
    """An erasure leaf of the attacker's own, appended under the log's key."""
    facts = {"files": [{"num_rows": 0, "receipts": [], **entry} for entry in entries]}
    manifest = {"kind": kind, "name": "x", "inputs": {}, "parents": [], "facts": facts}
    payload = registry.store.publish(kind, None, manifest)
    registry.ledger.append([Statement(kind=kind, subject="sha256:" + "0" * 64, name="x", payload=payload)])


def test_an_erased_answer_and_document_are_told_from_unknown_ones(world):
    leaf = erase(world, documents=["staff.md"], reason="asked for", actor="operator").leaf
    with pytest.raises(AnswerErased, match=f"leaf {leaf} erased it; its receipt stays"):
        trace_any(world, "q2")
    with pytest.raises(NothingToTrace, match="x-request-id of an answered request"):
        trace_any(world, "q9")
    with pytest.raises(NothingToTrace, match=f"leaf {leaf} erased it"):
        find_impact(world, "d1")
    with pytest.raises(NothingToTrace, match=rf"leaf {leaf} erased documents and keeps no name.*handbook\.md"):
        find_impact(world, "handbok.md")


@pytest.mark.parametrize("more", [("--by", ""), ("--by", " "), ("--reason", " ")])
def test_the_command_asks_who_and_why(world, more):
    words = ["erase", "--document", "staff.md", "--reason", "asked for", *more]
    ended = CliRunner().invoke(app, [*words, "--workspace", str(world.workspace.root)])
    assert isinstance(ended.exception, UsageError)
    assert verify(world.workspace).ok


def test_content_deleted_without_an_erasure_leaf_is_a_fault(world):
    folder = world.folder(world.world["dataset"])
    pq.write_table(pq.read_table(folder / "chunks.parquet").slice(1), folder / "chunks.parquet")
    (world.folder(world.world["synthetic"]) / "rows.parquet").unlink()
    part = world.workspace.requests_dir / "part.parquet"
    write_table(part, read_part(part).slice(1))
    kinds = {kind for kind, _ in faults(world)}
    assert kinds == {"changed-file", "missing-file", "missing-row"}
    assert ("missing-row", "request log part.parquet, request q0") in faults(world)


def test_a_journal_hides_nothing(world):
    """Verification believes the ledger, not what lies beside it."""
    part = world.workspace.requests_dir / "part.parquet"
    write_table(part, read_part(part).slice(1))
    plan = world.workspace.root / "erasures" / "0000"
    plan.mkdir(parents=True)
    (plan / "plan.json").write_text("{}")
    assert ("missing-row", "request log part.parquet, request q0") in faults(world)


def test_more_than_the_leaf_says_cannot_go(world):
    erase(world, subjects=[NAME], reason="asked for", actor="jane")
    part = world.workspace.requests_dir / "part.parquet"
    write_table(part, read_part(part).slice(1))
    path = world.folder(world.world["dataset"]) / "chunks.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    found = faults(world)
    assert ("missing-row", "request log part.parquet, request q0") in found
    assert any(kind == "changed-file" and where.endswith("chunks.parquet") for kind, where in found)


def test_an_answer_cannot_be_altered_under_an_erasure_leaf(world):
    """Even who holds the log's key can only remove a row of the request log: the others must open their receipts."""
    part = world.workspace.requests_dir / "part.parquet"
    old, table = digest_file(part), read_part(part)
    rows = table.to_pylist()[1:]
    rows[0]["answer"] = "something else"
    write_table(part, pa.Table.from_pylist(rows, schema=table.schema))
    root = next(leaf.statement.subject for leaf in world.ledger.leaves("request-batch"))
    entry = {"kind": "request-batch", "digest": root, "file": part.name, "old": old, "new": digest_file(part)}
    record_of(world, entry | {"receipts": [0], "num_rows": 1})
    assert faults(world) == {("changed-row", "request log part.parquet, request q1")}


def test_weights_cannot_be_swapped_under_an_erasure_leaf(world, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"honest")
    model = world.publish("model", "large", folder=folder, inputs={"m": 2})
    path = world.folder(model) / "weights.bin"
    old = digest_file(path)
    path.write_bytes(b"backdoor")
    record_of(world, {"kind": "model", "digest": model.digest, "file": path.name, "old": old, "new": digest_file(path)})
    assert {kind for kind, _ in faults(world)} == {"bad-erasure"}


def test_an_erasure_leaf_cannot_be_made_up_around_bytes_that_were_tampered_with_before(world):
    """It has to name the published digest as the old one."""
    path = world.folder(world.world["dataset"]) / "chunks.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    between = digest_file(path)
    pq.write_table(pq.read_table(path).slice(1), path)
    entry = {"kind": "dataset", "digest": world.world["dataset"].digest, "file": path.name}
    record_of(world, {**entry, "old": between, "new": digest_file(path)})
    assert {kind for kind, _ in faults(world)} == {"bad-erasure"}


def test_what_the_ledger_alone_cannot_tell(world):
    """The key's holder can rewrite a table under a well-formed erasure leaf: found by comparing with a copy, not here.

    What stays on record: who, when, why, the old digest and the new one. A backup whose file has the old digest
    shows that rows were altered, not removed.
    """
    path = world.folder(world.world["dataset"]) / "chunks.parquet"
    backup, old = pq.read_table(path).to_pylist(), digest_file(path)
    forged = [row | {"text": "The yearly fee is 99 crowns."} if row["chunk_id"] == "c0" else row for row in backup]
    write_rows(path, forged, schema=CHUNKS)
    entry = {"kind": "dataset", "digest": world.world["dataset"].digest, "file": path.name}
    record_of(world, {**entry, "old": old, "new": digest_file(path)})
    report = verify(world.workspace)
    assert report.faults == []
    assert any("chunks.parquet: erased by leaf" in note for note in report.notes)
    assert not all(row in backup for row in pq.read_table(path).to_pylist()), "the comparison that a backup allows"


def test_an_erasure_leaf_without_the_key_does_not_hold(world):
    from app.ledger.keys import Signer
    from app.ledger.log import Ledger

    path = world.folder(world.world["dataset"]) / "chunks.parquet"
    old = digest_file(path)
    os.truncate(path, 0)
    world.ledger = Ledger(world.database, Signer.generate("service", "service"))
    entry = {"kind": "dataset", "digest": world.world["dataset"].digest, "file": path.name}
    record_of(world, {**entry, "old": old, "new": digest_file(path)})
    assert "changed-checkpoint" in {kind for kind, _ in faults(world)}


def test_a_changed_erasure_record_erases_nothing(world):
    erase(world, subjects=[NAME], reason="asked for", actor="jane")
    leaf = next(iter(world.ledger.leaves(ERASURE)))
    path = world.workspace.root / "store" / ERASURE / leaf.statement.payload.removeprefix("sha256:") / "manifest.json"
    path.write_text(path.read_text().replace("asked for", "never mind"))
    kinds = {kind for kind, _ in faults(world)}
    assert {"changed-manifest", "changed-file", "missing-row"} <= kinds


def test_a_pack_of_a_release_whose_evidence_was_erased_holds(tmp_path):
    """A verdict that was reached on erased rows cannot be judged again, and the pack says so; all else is proven."""
    registry = open_registry(Workspace.find(tmp_path / "workspace"))
    release, verdict, _ = play(registry, tmp_path)
    key = registry.workspace.keys_dir / "service.pub"
    assert replay(verdict, registry=registry).same
    result = erase(registry, subjects=["q77"], reason="asked for", actor="jane")
    assert [entry.kind for entry in result.files] == ["evaluation"]
    again = replay(verdict, registry=registry)
    assert (again.same, len(again.erased)) == (False, 1)
    assert verify(registry.workspace).faults == []
    write_pack(release, tmp_path / "pack.zip", registry=registry)
    report = verify_pack(tmp_path / "pack.zip", public_key=key)
    assert report.faults == []
    assert any("cannot be judged again: rows.parquet" in note for note in report.notes)
    assert again.unexplained == ()
    facts = copy.deepcopy(dict(verdict.facts))
    next(check for check in facts["checks"] if check["kind"] == "loss_improves")["figure"] = 7
    parts = {"inputs": {**verdict.manifest["inputs"], "forged": True}, "parents": verdict.parents, "facts": facts}
    forged = registry.publish("verdict", verdict.name, **parts)
    erased_later = erase(registry, subjects=["q78"], reason="asked for", actor="jane")
    assert erased_later.files
    assert any("loss_improves.figure" in line for line in replay(forged, registry=registry).unexplained)
    path = registry.folder(registry.get("evaluation", "small-exam")) / "rows.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    assert not replay(verdict, registry=registry).same
    assert {kind for kind, _ in faults(registry)} == {"changed-file"}
