"""An attacker's small list: what is changed behind the log's back is named, wherever it was changed."""

import contextlib
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text, update

from app.core.clock import utc_now
from app.core.database import Database
from app.core.digests import digest_bytes, digest_file
from app.core.schema import aliases, checkpoints, leaves, tree_runs, versions
from app.ledger import merkle
from app.ledger.batches import batch_statement, write_part
from app.ledger.keys import Signer, load_or_create
from app.ledger.log import Ledger, Statement
from app.ledger.verify import NoLedger, verify
from app.registry.versions import open_registry
from tests.conftest import on_both

NUM_VERSIONS = 5


@pytest.fixture
def published(any_workspace, tmp_path):
    """A workspace with five dataset versions of one file each, and one part of the request log: six leaves."""
    workspace = any_workspace
    registry = open_registry(workspace)
    parents = ()
    for number in range(NUM_VERSIONS):
        folder = tmp_path / f"files{number}"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "rows.txt").write_text(f"rows of version {number}")
        made = registry.publish("dataset", "handbook", folder=folder, inputs={"n": number}, parents=parents)
        parents = (made.digest,)
    workspace.requests_dir.mkdir()
    part = workspace.requests_dir / "part.parquet"
    write_part(part, [{"request_id": f"r{number}", "time": utc_now()} for number in range(3)])
    registry.ledger.append([batch_statement(part)])
    return registry


def faults(registry):
    report = verify(registry.workspace)
    assert report.ok == (not report.faults)
    return {(fault.kind, fault.where) for fault in report.faults}


def kinds(registry):
    return {fault.kind for fault in verify(registry.workspace).faults}


def execute(registry, *queries):
    with registry.database.write() as connection:
        for query in queries:
            connection.execute(query)


def leaf_row(registry, index):
    with registry.database.read() as connection:
        return connection.execute(select(leaves).where(leaves.c.leaf_index == index)).one()


def flip(data, at=-2):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@on_both
def test_a_whole_ledger_holds(published):
    report = verify(published.workspace)
    assert report.ok
    assert (report.num_leaves, report.num_checkpoints, report.num_artifacts, report.num_files) == (6, 6, 5, 6)
    assert report.lines()[-1].endswith("all hold")
    assert report.exit_status == 0


def test_a_workspace_without_a_ledger_is_no_fault_but_a_wrong_question(workspace):
    with pytest.raises(NoLedger, match="publish something first"):
        verify(workspace)
    assert list(workspace.root.iterdir()) == []


@pytest.mark.parametrize("index", range(6))
def test_a_changed_leaf_is_named(published, index):
    row = leaf_row(published, index)
    execute(published, update(leaves).where(leaves.c.leaf_index == index).values(leaf=flip(row.leaf)))
    assert ("changed-leaf", f"leaf {index}") in faults(published)


@given(st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_a_leaf_or_hash_is_named(published, data):
    index = data.draw(st.integers(0, 5))
    column = data.draw(st.sampled_from(["leaf", "leaf_hash"]))
    row = leaf_row(published, index)
    whole = getattr(row, column)
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(whole)
    changed[at] ^= 1 << bit
    execute(published, update(leaves).where(leaves.c.leaf_index == index).values({column: bytes(changed)}))
    assert ("changed-leaf", f"leaf {index}") in faults(published)
    execute(published, update(leaves).where(leaves.c.leaf_index == index).values({column: whole}))
    assert verify(published.workspace).ok


@on_both
@pytest.mark.parametrize("column", ["kind", "subject"])
def test_changed_columns_of_a_leaf_are_named(published, column):
    execute(published, update(leaves).where(leaves.c.leaf_index == 2).values({column: "other"}))
    assert ("changed-leaf", "leaf 2") in faults(published)


@on_both
def test_a_deleted_leaf_is_named(published):
    execute(published, delete(leaves).where(leaves.c.leaf_index == 2))
    assert ("missing-leaf", "leaf 2") in faults(published)


@on_both
def test_a_cut_log_is_named(published):
    execute(published, delete(leaves).where(leaves.c.leaf_index >= 4))
    assert ("missing-leaf", "leaves 4-5") in faults(published)


def test_a_log_cut_together_with_nodes_and_checkpoints_shows_in_the_registry(published):
    execute(
        published,
        delete(leaves).where(leaves.c.leaf_index >= 4),
        delete(tree_runs).where(tree_runs.c.level == 1, tree_runs.c.start == 2),
        delete(checkpoints).where(checkpoints.c.size > 4),
    )
    assert faults(published) == {("unlogged-version", "dataset handbook@5")}


def test_an_inserted_leaf_is_named(published):
    forged = Statement(kind="review", subject=digest_bytes(b"x"), name="forged")
    data = forged.to_bytes()
    values = {"leaf_index": 6, "kind": "review", "subject": forged.subject, "leaf": data}
    execute(published, insert(leaves).values(**values, leaf_hash=merkle.leaf_hash(data)))
    assert ("unsigned-leaf", "leaf 6") in faults(published)


@on_both
def test_reordered_leaves_are_named(published):
    second, third = leaf_row(published, 1), leaf_row(published, 2)
    for index, row in ((1, third), (2, second)):
        values = {"kind": row.kind, "subject": row.subject, "leaf": row.leaf, "leaf_hash": row.leaf_hash}
        execute(published, update(leaves).where(leaves.c.leaf_index == index).values(**values))
    found = faults(published)
    assert ("changed-node", "tree node 1/0 over leaves 0-1") in found
    assert ("changed-node", "tree node 1/1 over leaves 2-3") in found


@on_both
def test_a_log_rewritten_without_the_key_is_named(published):
    """Every leaf from the third on, and all hashes, are made consistent again; the signatures remain."""
    data = [leaf_row(published, index).leaf for index in range(6)]
    statement = Statement.from_bytes(data[2])
    data[2] = Statement(**{**statement.__dict__, "actor": "nobody"}).to_bytes()
    grown = dict(merkle.grow(0, [merkle.leaf_hash(each) for each in data], {}.__getitem__))
    for (level, index), value in grown.items():
        if level:
            this = (tree_runs.c.level == level, tree_runs.c.start == index)
            execute(published, update(tree_runs).where(*this).values(hashes=value))
        else:
            row = {"leaf": data[index], "leaf_hash": value}
            execute(published, update(leaves).where(leaves.c.leaf_index == index).values(**row))
    assert faults(published) == {("rewritten-leaves", "leaf 2")}


def test_a_log_signed_again_with_another_key_is_named(published):
    forger = Ledger(published.database, Signer.generate("service", "service"))
    forger.append([Statement(kind="review", subject=digest_bytes(b"x"))])
    assert ("changed-checkpoint", "checkpoint of 7 leaves") in faults(published)


@pytest.mark.parametrize(("level", "index", "kind"), [(1, 1, "changed-node"), (2, 0, "changed-node")])
def test_a_changed_node_is_named(published, level, index, kind):
    this = (tree_runs.c.level == level, tree_runs.c.start == index)
    execute(published, update(tree_runs).where(*this).values(hashes=bytes(32)))
    assert any(where.startswith(f"tree node {level}/{index} ") for found, where in faults(published) if found == kind)


@pytest.mark.parametrize(("level", "start"), [(1, 0), (2, -1), (0, 0), (-1, 0), (1000, 0)])
def test_a_run_of_nodes_that_no_tree_has_is_named(published, level, start):
    """Also one that shadows a whole one: the reader would find it first."""
    execute(published, delete(tree_runs), insert(tree_runs).values(level=1, start=0, hashes=bytes(96)))
    execute(published, insert(tree_runs).values(level=level, start=start + (level == 1), hashes=bytes(32)))
    assert "stray-node" in kinds(published)


@on_both
def test_a_torn_run_of_nodes_is_named(published):
    execute(published, update(tree_runs).where(tree_runs.c.level == 2).values(hashes=bytes(31)))
    assert "changed-node" in kinds(published)


@on_both
def test_a_leaf_far_out_does_not_stop_the_search(published):
    row = leaf_row(published, 1)
    values = {"leaf_index": 2**31 - 1, "kind": row.kind, "subject": row.subject, "leaf": row.leaf}
    execute(published, insert(leaves).values(**values, leaf_hash=row.leaf_hash))
    assert "missing-leaf" in kinds(published)


def test_a_lost_and_a_stray_node_are_named(published):
    execute(published, delete(tree_runs).where(tree_runs.c.level == 2))
    execute(published, insert(tree_runs).values(level=3, start=0, hashes=bytes(32)))
    assert {"missing-node", "stray-node"} <= kinds(published)


def test_a_changed_checkpoint_is_named(published):
    with published.database.read() as connection:
        note = connection.execute(select(checkpoints.c.note).where(checkpoints.c.size == 3)).scalar_one()
    changed = note.replace("\n3\n", "\n4\n")
    execute(published, update(checkpoints).where(checkpoints.c.size == 3).values(note=changed))
    assert faults(published) == {("changed-checkpoint", "checkpoint of 3 leaves")}


def test_a_checkpoint_under_another_size_is_named(published):
    execute(published, delete(checkpoints).where(checkpoints.c.size == 3))
    execute(published, update(checkpoints).where(checkpoints.c.size == 4).values(size=3))
    assert faults(published) == {("changed-checkpoint", "checkpoint of 3 leaves")}


def artifact(registry, number):
    version = registry.get("dataset", f"handbook@{number}")
    return registry.folder(version), f"dataset handbook@{number} ({version.digest[:19]})"


def test_a_changed_file_is_named(published):
    folder, where = artifact(published, 2)
    path = folder / "sub" / "rows.txt"
    path.write_bytes(flip(path.read_bytes()))
    assert faults(published) == {("changed-file", f"{where}: sub/rows.txt")}
    assert verify(published.workspace).exit_status == 1


def test_missing_and_extra_files_are_named(published):
    folder, where = artifact(published, 2)
    (folder / "sub" / "rows.txt").rename(folder / "moved.txt")
    assert faults(published) == {
        ("missing-file", f"{where}: sub/rows.txt"),
        ("extra-file", f"{where}: moved.txt"),
    }


def test_a_swapped_artifact_is_named(published):
    (first, where), (second, _) = artifact(published, 1), artifact(published, 2)
    first.parent.rename(first.parent.with_name("aside"))
    second.parent.rename(first.parent)
    assert ("changed-manifest", where) in faults(published)


@pytest.mark.parametrize("at", [0, 5, -1])
def test_a_flipped_byte_of_a_manifest_is_named(published, at):
    folder, where = artifact(published, 3)
    path = folder.parent / "manifest.json"
    path.write_bytes(flip(path.read_bytes(), at))
    assert faults(published) == {("changed-manifest", where)}


def test_a_lost_artifact_is_named(published):
    folder, where = artifact(published, 3)
    (folder.parent / "manifest.json").unlink()
    assert ("missing-artifact", where) in faults(published)


def test_request_log_parts(published):
    part = published.workspace.requests_dir / "part.parquet"
    (part.parent / "new.parquet").write_bytes(b"not in the ledger yet")
    report = verify(published.workspace)
    assert report.ok
    assert "1 parts" in report.notes[0]
    part.write_bytes(b"bart")
    assert faults(published) >= {("unreadable-file", "request log part.parquet")}
    part.unlink()
    lost = {("missing-row", f"request log part.parquet, request r{number}") for number in range(3)}
    assert faults(published) == {("missing-file", "request log part.parquet"), *lost}


def test_every_fault_is_named_not_the_first_alone(published):
    for number in (1, 3):
        (artifact(published, number)[0] / "sub" / "rows.txt").write_text("changed")
    execute(published, update(leaves).where(leaves.c.leaf_index == 4).values(leaf=b"{}"))
    found = [fault.kind for fault in verify(published.workspace).faults]
    assert found.count("changed-file") == 2
    assert found.count("changed-leaf") == 1


@on_both
def test_version_rows_without_leaves_and_leaves_without_rows(published):
    values = {"kind": "model", "name": "small", "number": 1, "digest": digest_bytes(b"x")}
    values |= {"inputs_digest": digest_bytes(b"y"), "created_at": ""}
    execute(published, insert(versions).values(**values), delete(versions).where(versions.c.number == 5))
    assert faults(published) == {
        ("unlogged-version", "model small@1"),
        ("missing-version", "leaf 4, dataset handbook"),
    }


def test_renumbered_versions_are_named(published):
    for old, new in ((4, 99), (5, 4), (99, 5)):
        execute(published, update(versions).where(versions.c.number == old).values(number=new))
    assert kinds(published) == {"renumbered-version"}


def test_a_version_row_with_other_inputs_is_named(published):
    execute(published, update(versions).where(versions.c.number == 2).values(inputs_digest=digest_bytes(b"")))
    assert faults(published) == {("changed-version", "dataset handbook@2")}


@on_both
def test_an_alias_moved_behind_our_back_is_named(published):
    with published.database.read() as connection:
        row = connection.execute(select(versions.c.id).where(versions.c.number == 2)).scalar_one()
    values = {"kind": "dataset", "name": "handbook", "version_id": row, "updated_at": ""}
    execute(published, insert(aliases).values(**values, alias="tested"))
    assert verify(published.workspace).ok
    execute(published, insert(aliases).values(**values, alias="production"))
    assert faults(published) == {("unbacked-alias", "alias dataset/handbook@production")}


def test_a_forged_promotion_leaf_needs_verdict_and_approval(published):
    """Even who holds the service's key cannot promote without them."""
    target = published.get("dataset", "handbook@2")
    statement = Statement(
        kind="promotion", subject=target.digest, name="dataset/handbook", parents=target.digest and ()
    )
    published.ledger.append([statement])
    found = [fault.message for fault in verify(published.workspace).faults if fault.kind == "bad-promotion"]
    assert [any(word in message for message in found) for word in ("signature", "verdict", "approval")] == [True] * 3


def test_a_key_of_two_roles_is_named(published):
    trainer = Signer.generate("bob", "trainer")
    twin = Signer(name="jane", role="approver", private=trainer.private)
    published.ledger.register_key(trainer.public)
    assert verify(published.workspace).ok
    published.ledger.register_key(twin.public)
    assert kinds(published) == {"key-of-two-roles"}


def test_a_public_key_of_one_s_own_is_used(published, tmp_path):
    copy = tmp_path / "copy.pub"
    copy.write_bytes((published.workspace.keys_dir / "service.pub").read_bytes())
    assert verify(published.workspace, public_key=copy).ok
    stranger = load_or_create(tmp_path / "keys", "service", "service")
    assert stranger.public.name == "service"
    report = verify(published.workspace, public_key=tmp_path / "keys" / "service.pub")
    assert [fault.kind for fault in report.faults] == ["wrong-key"]


def test_a_damaged_database_file_is_named(published):
    """Bytes overwritten in the file itself, the kind of damage that no query was asked to make."""
    path = published.workspace.root / "signalbox.db"
    published.database.engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        subject = connection.execute("SELECT subject FROM leaves WHERE leaf_index = 3").fetchone()[0].encode()
    whole = path.read_bytes()
    places = [at for at in range(len(whole)) if whole.startswith(subject, at)]
    assert len(places) >= 3, "the digest stands in the leaf, its column and at least one index"
    for at in places:
        path.write_bytes(whole[: at + 20] + bytes([whole[at + 20] ^ 1]) + whole[at + 21 :])
        assert not verify(published.workspace).ok, at
        Database(published.workspace.database_url).engine.dispose()
    path.write_bytes(whole)
    assert verify(published.workspace).ok


def test_an_unreadable_database_is_named(published):
    path = published.workspace.root / "signalbox.db"
    published.database.engine.dispose()
    for each in published.workspace.root.glob("signalbox.db*"):
        each.unlink()
    path.write_bytes(b"no database at all" * 500)
    assert kinds(published) == {"unreadable-database"}


@on_both
def test_verification_beside_a_writer_sees_one_state(published):
    with published.database.write() as connection:
        published.ledger.append([Statement(kind="review", subject=digest_bytes(b"x"))], connection=connection)
        assert verify(published.workspace).ok
    assert verify(published.workspace).num_leaves == 7


def test_verification_changes_nothing(published):
    files = [path for path in published.workspace.root.rglob("*") if path.is_file() and "signalbox.db" not in path.name]
    before = {path: digest_file(path) for path in files}
    verify(published.workspace)
    assert {path: digest_file(path) for path in files} == before
    with published.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM leaves")).scalar() == 6
