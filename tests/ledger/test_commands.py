"""`signalbox ledger ...` and `signalbox verify --ledger`: an auditor's way through, and the wrong turns."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from app import cli
from app.core.digests import digest_bytes
from app.core.errors import SignalboxError, UsageError
from app.ledger.keys import write_pem
from app.ledger.log import Statement, open_ledger
from app.ledger.witness import Witness


def statement(name):
    return Statement(kind="trigger", subject=digest_bytes(name.encode()), name=name)


@pytest.fixture
def run(workspace):
    open_ledger(workspace).append([statement(f"n{number}") for number in range(9)])

    def invoke(*words, status=0):
        ended = CliRunner().invoke(cli.app, [str(word) for word in words])
        if isinstance(ended.exception, SignalboxError):
            assert ended.exception.exit_status == status, ended.exception
            return str(ended.exception)
        assert ended.exit_code == status, ended.output
        return ended.stdout

    return invoke


def test_an_auditor_s_way(run, workspace, tmp_path):
    """Export, proof and checkpoint leave the house; everything is checked with the key alone, in another place."""
    here = ("-w", workspace.root)
    key, kept = tmp_path / "log.pub", tmp_path / "kept"
    key.write_bytes((workspace.keys_dir / "service.pub").read_bytes())
    run("ledger", "checkpoint", "--out", kept, *here)
    run("ledger", "prove", digest_bytes(b"n3"), "--out", tmp_path / "proof", *here)
    open_ledger(workspace).append([statement("later")])
    run("ledger", "prove-growth", 9, "--out", tmp_path / "growth", *here)
    run("ledger", "export", tmp_path / "export", *here)
    away = ("--key", key, "-w", tmp_path / "elsewhere")
    assert "leaf 3 of 9" in run("ledger", "check-proof", tmp_path / "proof", *away)
    assert "begins with the 9" in run("ledger", "check-proof", tmp_path / "growth", "--checkpoint", kept, *away)
    said = json.loads(run("verify", "--ledger", tmp_path / "export", "--checkpoint", kept, *away, "--json"))
    assert (said["ok"], said["leaves"], said["notes"]) == (True, 10, [])
    run("verify", "--checkpoint", kept, *here)


def test_witnesses(run, workspace, tmp_path):
    here = ("-w", workspace.root)
    private = Ed25519PrivateKey.generate()
    write_pem(tmp_path / "witness.pem", private)
    witness = Witness("witness.example.com/w1", private.public_key().public_bytes_raw())
    assert "no witness" in run("ledger", "witness", "list", *here)
    assert "is trusted" in run("ledger", "witness", "add", witness.vkey, *here)
    assert json.loads(run("ledger", "witness", "list", "--json", *here))[0]["vkey"] == witness.vkey
    run("ledger", "checkpoint", "--out", tmp_path / "note", *here)
    options = ("--private", tmp_path / "witness.pem", "--name", witness.name, "--seen", tmp_path / "seen")
    options = (*options, "--log-key", workspace.keys_dir / "service.pub", "--out", tmp_path / "signed")
    run("ledger", "witness", "sign", tmp_path / "note", *options)
    assert "cosigned by" in run("ledger", "cosign", tmp_path / "signed", *here)
    assert witness.name in run("verify", "--witness", witness.vkey, *here)
    assert "no trusted witness" in run("ledger", "cosign", tmp_path / "note", *here, status=1)


def test_wrong_turns_are_one_sentence(run, workspace, tmp_path):
    here = ("-w", workspace.root)
    run("ledger", "prove", 3, "--out", tmp_path / "proof", *here)
    run("ledger", "prove-growth", 9, "--out", tmp_path / "growth", *here)
    values = json.loads((tmp_path / "proof").read_text())
    (tmp_path / "forged").write_text(json.dumps({**values, "index": 4}))
    assert "was changed" in run("ledger", "check-proof", tmp_path / "forged", *here, status=1)
    assert "--checkpoint" in run("ledger", "check-proof", tmp_path / "growth", *here, status=2)
    assert "no leaf 9" in run("ledger", "prove", 9, *here, status=2)
    assert "no leaf is about" in run("ledger", "prove", digest_bytes(b"x"), *here, status=2)
    assert "signalbox ledger export" in run("verify", "--ledger", tmp_path, *here, status=2)
    assert "there is no workspace" in run("verify", "-w", tmp_path / "new", status=2)
    kept = ("--checkpoint", tmp_path / "growth")
    assert "leave --checkpoint out" in run("ledger", "check-proof", tmp_path / "proof", *kept, *here, status=2)
    assert "no leaves" in run("ledger", "prove", 5, "--size", 0, *here, status=2)
    assert "names no variable" in run("keys", "new", "jane", "--role", "service", "--source", "env:", *here, status=2)


@pytest.mark.parametrize("option", ["--pack", "--ledger", "--key", "--checkpoint"])
def test_what_verify_is_given_must_be_there(run, workspace, tmp_path, option):
    said = run("verify", option, tmp_path / "nothing", "-w", workspace.root, status=2)
    assert said == f"there is nothing at {tmp_path / 'nothing'}: correct the path"


def test_what_is_no_checkpoint_is_no_sign_of_a_rewritten_log(run, workspace):
    here, key = ("-w", workspace.root), workspace.keys_dir / "service.pub"
    assert "bad-checkpoint" in run("verify", "--checkpoint", key, *here, status=1)
    assert "is a folder" in run("verify", "--pack", workspace.root, *here, status=2)


def test_errors_have_the_right_status():
    assert (UsageError.exit_status, SignalboxError.exit_status) == (2, 1)
