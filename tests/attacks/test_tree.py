"""Attacks on the log itself: every one is refused, or found by verification with a sentence that names it."""

import json
import multiprocessing
import os
import signal
import time
from collections import defaultdict

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, update

from app.core.digests import digest_bytes
from app.core.schema import checkpoints, cosignatures, leaves, tree_runs
from app.core.workspace import Workspace
from app.ledger import merkle
from app.ledger.auditor import Auditor
from app.ledger.export import export_ledger
from app.ledger.keys import Signer
from app.ledger.log import Ledger, Statement, open_ledger
from app.ledger.verify import verify
from app.ledger.verify_export import verify_export
from app.ledger.witness import Witness, add_cosignatures, cosign, register_witness
from tests.conftest import on_both

NUM_WRITERS, NUM_DOOMED = 20, 10
NUM_ROUNDS, BATCH = 5, 3
RACE_S = 90


def statement(name):
    return Statement(kind="trigger", subject=digest_bytes(name.encode()), name=name)


def _write(root, url, name, num_rounds, acknowledged):
    """Append batches, and put on record what the ledger acknowledged, each line in one write."""
    os.environ["SIGNALBOX_DATABASE_URL"] = url
    ledger = open_ledger(Workspace(root))
    record = os.open(acknowledged, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in range(num_rounds):
        names = [f"{name}/{number}/{part}" for part in range(BATCH)]
        indexes = ledger.append([statement(each) for each in names])
        os.write(record, json.dumps([name, names, indexes]).encode() + b"\n")


def _acknowledged(path):
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _race(workspace, acknowledged):
    """Twenty writers on an empty database; ten of them are killed one after the other while they append."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    rounds = [1_000_000 if number < NUM_DOOMED else NUM_ROUNDS for number in range(NUM_WRITERS)]
    writers = [
        context.Process(
            target=_write, args=(workspace.root, workspace.database_url, f"w{number}", rounds[number], acknowledged)
        )
        for number in range(NUM_WRITERS)
    ]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + RACE_S
    for number, writer in enumerate(writers[:NUM_DOOMED]):
        while not any(name == f"w{number}" for name, _, _ in _acknowledged(acknowledged)):
            assert time.monotonic() < deadline, f"writer {number} never wrote"
            time.sleep(0.01)
        os.kill(writer.pid, signal.SIGKILL)
    for writer in writers:
        writer.join(RACE_S)
    return [writer.exitcode for writer in writers]


@on_both
def test_twenty_writers_race_and_half_are_killed(any_workspace, tmp_path):
    """No gap, no fork, no batch torn, no acknowledged leaf lost."""
    acknowledged = tmp_path / "acknowledged"
    exits = _race(any_workspace, acknowledged)
    assert exits == [-signal.SIGKILL] * NUM_DOOMED + [0] * (NUM_WRITERS - NUM_DOOMED)
    ledger = open_ledger(any_workspace)
    stored = list(ledger.leaves())
    names = [leaf.statement.name for leaf in stored]
    assert [leaf.index for leaf in stored] == list(range(len(stored)))
    told = _acknowledged(acknowledged)
    assert all([names[index] for index in indexes] == batch for _, batch, indexes in told)
    batches = defaultdict(list)
    for index, name in enumerate(names):
        batches[name.rpartition("/")[0]].append(index)
    assert all(indexes == list(range(indexes[0], indexes[0] + BATCH)) for indexes in batches.values())
    assert len(told) <= len(batches) <= len(told) + NUM_DOOMED, "at most the killed writers' last batches went untold"
    assert ledger.root() == merkle.root_of([merkle.leaf_hash(leaf.statement.to_bytes()) for leaf in stored])
    report = verify(any_workspace)
    assert (report.faults, report.num_leaves) == ([], len(stored))


NUM_LEAVES = 11


@pytest.fixture
def ledger(any_workspace):
    """Eleven leaves in three batches."""
    ledger = open_ledger(any_workspace)
    for batch in (range(4), range(4, 7), range(7, NUM_LEAVES)):
        ledger.append([statement(str(number)) for number in batch])
    return ledger


def found(workspace, **auditor):
    report = verify(workspace, **auditor)
    assert report.exit_status == (1 if report.faults else 0)
    return {(fault.kind, fault.where) for fault in report.faults}


def execute(ledger, *queries):
    with ledger.database.write() as connection:
        for query in queries:
            connection.execute(query)


def rows_of(ledger):
    with ledger.database.read() as connection:
        return connection.execute(select(leaves).order_by(leaves.c.leaf_index)).all()


def as_row(index, said):
    data = said.to_bytes()
    return dict(leaf_index=index, kind=said.kind, subject=said.subject, leaf=data, leaf_hash=merkle.leaf_hash(data))


def rewrite(ledger, said, signer):
    """The whole log anew from other statements, every table in agreement, signed by a key of the attacker's choice."""
    execute(ledger, *(table.delete() for table in (leaves, tree_runs, checkpoints)))
    forged = Ledger(ledger.database, signer)
    forged.append(said[:7])
    forged.append(said[7:])


@on_both
@pytest.mark.parametrize("index", [0, 6, 10])
def test_a_changed_leaf(ledger, any_workspace, index):
    """Bytes, hash and columns together, as who writes SQL would."""
    execute(ledger, update(leaves).where(leaves.c.leaf_index == index).values(as_row(index, statement("forged"))))
    named = found(any_workspace)
    pair = ("changed-node", f"tree node 1/{index // 2} over leaves {index - index % 2}-{index - index % 2 + 1}")
    assert named & {pair, ("rewritten-leaves", "leaves 7-10")}, "the last leaf has no node above it but the root"


@on_both
@pytest.mark.parametrize("index", [0, 6, 10])
def test_a_deleted_leaf(ledger, any_workspace, index):
    execute(ledger, leaves.delete().where(leaves.c.leaf_index == index))
    assert ("missing-leaf", f"leaf {index}") in found(any_workspace)


@on_both
def test_a_deleted_leaf_with_all_others_moved_up(ledger, any_workspace):
    rows = rows_of(ledger)
    execute(ledger, leaves.delete())
    kept = [{**row._mapping, "leaf_index": index} for index, row in enumerate([*rows[:3], *rows[4:]])]
    execute(ledger, insert(leaves).values(kept))
    kinds = {kind for kind, _ in found(any_workspace)}
    assert {"changed-node", "missing-leaf"} <= kinds


@on_both
def test_reordered_leaves(ledger, any_workspace):
    second, ninth = rows_of(ledger)[1], rows_of(ledger)[8]
    for index, row in ((1, ninth), (8, second)):
        execute(
            ledger,
            update(leaves).where(leaves.c.leaf_index == index).values({**row._mapping, "leaf_index": index}),
        )
    named = found(any_workspace)
    assert {
        ("changed-node", "tree node 1/0 over leaves 0-1"),
        ("changed-node", "tree node 1/4 over leaves 8-9"),
    } <= named


@on_both
def test_an_inserted_leaf(ledger, any_workspace):
    execute(ledger, insert(leaves).values(as_row(NUM_LEAVES, statement("forged"))))
    assert ("unsigned-leaf", f"leaf {NUM_LEAVES}") in found(any_workspace)


@on_both
def test_a_leaf_inserted_with_everything_but_the_signature(ledger, any_workspace):
    """Nodes and a checkpoint too, signed by a key of the attacker's own under the service's name."""
    Ledger(ledger.database, Signer.generate("service", "service")).append([statement("forged")])
    assert found(any_workspace) == {("changed-checkpoint", f"checkpoint of {NUM_LEAVES + 1} leaves")}


def forged_statements():
    return [statement("forged" if number == 2 else str(number)) for number in range(NUM_LEAVES)]


@on_both
def test_the_whole_log_rewritten_under_another_key(ledger, any_workspace, tmp_path):
    """Even with the public key beside it exchanged: the auditor's own copy, or a checkpoint kept, tells."""
    key, kept = tmp_path / "log.pub", tmp_path / "kept"
    key.write_text(ledger.signer.public.vkey)
    kept.write_text(ledger.checkpoint())
    attacker = Signer.generate("service", "service")
    rewrite(ledger, forged_statements(), attacker)
    assert found(any_workspace) == {("wrong-key", f"key {ledger.signer.public.vkey}")}, "one fault, not one each"
    (any_workspace.keys_dir / "service.pub").write_text(attacker.public.vkey)
    assert found(any_workspace) == set(), "nothing in the house tells any more"
    assert {kind for kind, _ in found(any_workspace, public_key=key)} == {"wrong-key"}
    assert {kind for kind, _ in found(any_workspace, public_key=key, checkpoint=kept)} >= {"rewritten-leaves"}
    assert found(any_workspace, checkpoint=kept) == {("changed-key", "kept checkpoint kept")}


@on_both
def test_the_whole_log_rewritten_under_the_same_key(ledger, any_workspace, tmp_path):
    """Who holds the service's key can make a log that is whole in itself, but none that fits a checkpoint kept."""
    kept = tmp_path / "kept"
    kept.write_text(ledger.checkpoint())
    rewrite(ledger, forged_statements(), ledger.signer)
    assert found(any_workspace) == set()
    assert found(any_workspace, checkpoint=kept) == {("rewritten-leaves", "leaves 0-10")}


@on_both
def test_the_log_cut_back_under_the_same_key(ledger, any_workspace, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text(ledger.checkpoint())
    rewrite(ledger, [statement(str(number)) for number in range(9)], ledger.signer)
    assert found(any_workspace, checkpoint=kept) == {("missing-leaf", "leaves 9-10")}


def test_a_rewritten_log_in_an_export(ledger, any_workspace, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text(ledger.checkpoint())
    rewrite(ledger, forged_statements(), ledger.signer)
    export_ledger(ledger, tmp_path / "export")
    assert verify_export(tmp_path / "export").ok
    report = verify_export(tmp_path / "export", Auditor(checkpoint=kept))
    assert [fault.kind for fault in report.faults] == ["rewritten-leaves"]


def test_a_rewritten_log_shown_to_a_witness(ledger, any_workspace):
    """A witness's signature over the old log does not move to the new one, and taking it away is seen."""
    private = Ed25519PrivateKey.generate()
    witness = Witness("witness.example.com/w1", private.public_key().public_bytes_raw())
    register_witness(ledger, witness)
    note = ledger.checkpoint()
    add_cosignatures(ledger, note + cosign(note, name=witness.name, private=private, time_s=1))
    assert found(any_workspace, witnesses=[witness]) == set()
    said = [*forged_statements(), Statement(kind="witness", subject=witness.digest, name=witness.vkey)]
    rewrite(ledger, said, ledger.signer)
    assert {kind for kind, _ in found(any_workspace)} == {"bad-cosignature"}
    execute(ledger, cosignatures.delete())
    assert found(any_workspace) == set()
    assert {kind for kind, _ in found(any_workspace, witnesses=[witness])} == {"unwitnessed"}
