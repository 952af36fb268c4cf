"""An exported ledger is checked with files and a key alone; whatever is changed in the folder is named."""

import json
import socket

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.digests import digest_bytes
from app.ledger import export as module
from app.ledger.auditor import Auditor
from app.ledger.export import ExportUnusable, export_ledger
from app.ledger.log import Statement, open_ledger
from app.ledger.verify_export import NoExport, verify_export
from app.ledger.witness import Witness, add_cosignatures, cosign, register_witness
from tests.conftest import on_both

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS = Witness("witness.example.com/w1", PRIVATE.public_key().public_bytes_raw())


def statement(number):
    return Statement(kind="trigger", subject=digest_bytes(str(number).encode()), name=f"n{number}")


@pytest.fixture
def folder(any_workspace, tmp_path, monkeypatch):
    """Ten leaves in files of four, three checkpoints, one cosigned."""
    monkeypatch.setattr(module, "FILE_LEAVES", 4)
    ledger = open_ledger(any_workspace)
    register_witness(ledger, WITNESS)
    ledger.append([statement(number) for number in range(5)])
    note = ledger.checkpoint()
    add_cosignatures(ledger, note + cosign(note, name=WITNESS.name, private=PRIVATE, time_s=9))
    ledger.append([statement(number) for number in range(5, 9)])
    assert export_ledger(ledger, tmp_path / "export") == 10
    return tmp_path / "export"


def kinds(folder, **auditor):
    return {fault.kind for fault in verify_export(folder, Auditor(**auditor)).faults}


@on_both
def test_a_whole_export_holds_without_database_and_network(folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    report = verify_export(folder, Auditor(key=folder / "service.pub", witnesses=(WITNESS,)))
    assert (report.faults, report.num_leaves, report.num_checkpoints, report.num_files) == ([], 10, 3, 5)
    assert report.notes == ["witness.example.com/w1 has signed that it saw the first 6 of 10 leaves"]


def test_a_key_that_came_with_the_export_is_said_to_have(folder):
    assert "--key" in verify_export(folder).notes[0]


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_changed_deleted_reordered_and_inserted_leaves_are_named(folder):
    path = folder / "leaves" / "000000000004.jsonl"
    whole = lines_of(path)
    for lines in (
        [whole[0].replace(b"n3", b"n4"), *whole[1:]],
        whole[1:],
        [whole[1], whole[0], *whole[2:]],
        [*whole, whole[0]],
        [whole[0], b"{}\n", *whole[2:]],
        [*whole[:-1], whole[-1][:-5]],
    ):
        path.write_bytes(b"".join(lines))
        assert kinds(folder) & {"rewritten-leaves", "changed-leaf", "missing-leaf", "unsigned-leaf"}
    path.write_bytes(b"".join(whole))
    assert kinds(folder) == set()


def test_a_file_of_leaves_that_is_gone_is_named(folder):
    (folder / "leaves" / "000000000004.jsonl").unlink()
    assert "missing-leaf" in kinds(folder)


def test_changed_checkpoints_are_named(folder):
    path = folder / "checkpoints.jsonl"
    whole = lines_of(path)
    values = json.loads(whole[0])
    forged = json.dumps({**values, "note": values["note"].replace("\n1\n", "\n2\n")}).encode() + b"\n"
    for lines in ([forged, *whole[1:]], whole[:-1], [b"nonsense\n", *whole]):
        path.write_bytes(b"".join(lines))
        assert kinds(folder) & {"changed-checkpoint", "unsigned-leaf"}
    path.unlink()
    assert {"missing-checkpoint", "unsigned-leaf"} <= kinds(folder)


def test_a_changed_newest_checkpoint_and_cosignature_are_named(folder):
    (folder / "checkpoint").write_text("x")
    assert kinds(folder) == {"changed-checkpoint"}
    (folder / "checkpoint").unlink()
    assert kinds(folder) == {"missing-checkpoint"}


def test_a_cosignature_that_does_not_hold_is_named(folder):
    path = folder / "checkpoints.jsonl"
    values = [json.loads(line) for line in lines_of(path)]
    moved = values[1]["note"].splitlines(keepends=True)[-1]
    values[0]["note"] += moved
    path.write_text("".join(json.dumps(each) + "\n" for each in values))
    assert kinds(folder) == {"bad-cosignature"}


def test_an_export_overwrites_nothing(folder, any_workspace):
    with pytest.raises(ExportUnusable, match="not an empty folder"):
        export_ledger(open_ledger(any_workspace), folder)


def test_what_is_no_export_is_a_wrong_question(tmp_path):
    with pytest.raises(NoExport, match="signalbox ledger export"):
        verify_export(tmp_path)


def test_an_empty_ledger_is_exported_and_holds(any_workspace, tmp_path):
    export_ledger(open_ledger(any_workspace), tmp_path / "empty")
    assert kinds(tmp_path / "empty") == set()


def test_a_second_checkpoint_of_one_size_is_named(folder):
    path = folder / "checkpoints.jsonl"
    first = json.loads(lines_of(path)[0])
    forged = json.dumps({**first, "note": "forged"}).encode() + b"\n"
    path.write_bytes(forged + path.read_bytes())
    assert "changed-checkpoint" in kinds(folder)


def test_a_size_without_bound_and_a_folder_among_the_leaves_are_named(folder):
    path = folder / "checkpoints.jsonl"
    path.write_bytes(b'{"note": "x", "size": 1e999}\n' + path.read_bytes())
    (folder / "leaves" / "999999999999.jsonl").mkdir()
    assert {"changed-checkpoint", "unreadable-file"} <= kinds(folder)
