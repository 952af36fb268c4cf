"""Witnesses: the published form, cosignatures taken and checked, bad ones refused and named."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, update

from app.core.digests import digest_bytes
from app.core.schema import checkpoints, cosignatures
from app.ledger.log import Statement, open_ledger
from app.ledger.note import decode_base64, sign_note
from app.ledger.proofs import ProofRefused, prove_consistency
from app.ledger.verify import verify
from app.ledger.witness import (
    BadWitness,
    CosignatureRefused,
    Witness,
    add_cosignatures,
    cosign,
    register_witness,
    witness_checkpoint,
    witnesses,
)
from tests.conftest import on_both

NAME = "witness.example.com/w1"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS = Witness(NAME, PRIVATE.public_key().public_bytes_raw())


def statement(name):
    return Statement(kind="trigger", subject=digest_bytes(name.encode()), name=name)


def signed_by_witness(ledger, private=PRIVATE, name=NAME, time_s=1_700_000_000):
    note = ledger.checkpoint()
    return note + cosign(note, name=name, private=private, time_s=time_s)


@pytest.fixture
def ledger(any_workspace):
    ledger = open_ledger(any_workspace)
    ledger.append([statement("first")])
    register_witness(ledger, WITNESS)
    return ledger


def found(workspace, *extra):
    return {fault.kind for fault in verify(workspace, witnesses=extra).faults}


def test_the_published_form():
    """https://c2sp.org/tlog-cosignature: key id, 8 bytes of time, signature over two lines and the note's text."""
    note = "example.com/log\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/log AAAAAAAA\n"
    line = cosign(note, name=NAME, private=PRIVATE, time_s=1_679_315_147)
    body = decode_base64(line.split(" ")[2].strip())
    assert line.startswith(f"— {NAME} ")
    assert len(body) == 4 + 8 + 64
    assert body[:4] == WITNESS.key_id
    assert int.from_bytes(body[4:12], "big") == 1_679_315_147
    message = f"cosignature/v1\ntime 1679315147\n{note.partition(chr(10) * 2)[0]}\n".encode()
    PRIVATE.public_key().verify(body[12:], message)


def test_a_verifier_key_reads_back():
    assert Witness.parse(WITNESS.vkey) == WITNESS
    assert base64.b64decode(WITNESS.vkey.split("+", 2)[2])[:1] == b"\x04"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "a+b",
        WITNESS.vkey.replace("w1", "w2"),
        WITNESS.vkey[:-4],
        WITNESS.vkey.replace(NAME, ""),
        WITNESS.vkey.replace(NAME, "a b"),
    ],
)
def test_a_damaged_verifier_key_is_refused(vkey):
    with pytest.raises(BadWitness):
        Witness.parse(vkey)


def test_a_log_s_own_key_is_no_witness(ledger):
    with pytest.raises(BadWitness, match="no cosigning key"):
        Witness.parse(ledger.signer.public.vkey)


@on_both
def test_a_cosignature_is_kept_and_checked(ledger, any_workspace):
    assert add_cosignatures(ledger, signed_by_witness(ledger)) == [WITNESS]
    assert add_cosignatures(ledger, signed_by_witness(ledger, time_s=1_800_000_000)) == [WITNESS]
    assert ledger.checkpoint().count("\n— ") == 2
    ledger.append([statement("later")])
    report = verify(any_workspace, witnesses=[WITNESS])
    assert report.faults == []
    assert any("first 2 of 3 leaves" in note for note in report.notes)


def test_a_witness_is_trusted_once(ledger):
    assert register_witness(ledger, WITNESS) is False
    assert witnesses(ledger) == [WITNESS]


def test_bad_cosignatures_are_refused(ledger):
    note = ledger.checkpoint()
    stranger = Ed25519PrivateKey.generate()
    for bad in (
        note,
        signed_by_witness(ledger, private=stranger),
        signed_by_witness(ledger, name="witness.example.com/w2"),
        signed_by_witness(ledger).replace("\n2\n", "\n1\n"),
        note + cosign(note.replace("\n2\n", "\n1\n"), name=NAME, private=PRIVATE, time_s=1),
        sign_note(note.partition("\n\n")[0] + "\nmore\n", ledger.signer),
        "",
    ):
        with pytest.raises(CosignatureRefused):
            add_cosignatures(ledger, bad)
    line = cosign(note, name=NAME, private=PRIVATE, time_s=1)
    body = bytearray(decode_base64(line.split(" ")[2].strip()))
    for at in (4, 11, 12, 75):
        changed = bytes([*body[:at], body[at] ^ 1, *body[at + 1 :]])
        with pytest.raises(CosignatureRefused, match="does not hold"):
            add_cosignatures(ledger, f"{note}— {NAME} {base64.b64encode(changed).decode()}\n")
    assert ledger.checkpoint() == note


def test_a_cosignature_over_a_forked_log_is_refused(ledger, tmp_path):
    """Signed by the log's own key, but another tree."""
    text = ledger.checkpoint().partition("\n\n")[0].split("\n")
    forked = sign_note("\n".join([*text[:2], base64.b64encode(bytes(32)).decode(), ""]), ledger.signer)
    with pytest.raises(CosignatureRefused, match="is another one"):
        add_cosignatures(ledger, forked + cosign(forked, name=NAME, private=PRIVATE, time_s=1))


@on_both
def test_stored_cosignatures_that_do_not_hold_are_named(ledger, any_workspace):
    add_cosignatures(ledger, signed_by_witness(ledger))
    assert found(any_workspace) == set()
    with ledger.database.write() as connection:
        connection.execute(update(cosignatures).values(size=1))
    assert found(any_workspace) == {"bad-cosignature"}
    with ledger.database.write() as connection:
        connection.execute(update(cosignatures).values(size=2, witness=digest_bytes(b"stranger")))
    assert found(any_workspace) == {"bad-cosignature"}
    with ledger.database.write() as connection:
        connection.execute(update(cosignatures).values(size=99, witness=WITNESS.digest))
    assert found(any_workspace) == {"bad-cosignature"}


def test_a_destroyed_note_under_a_cosignature_is_named(ledger, any_workspace):
    add_cosignatures(ledger, signed_by_witness(ledger))
    with ledger.database.write() as connection:
        connection.execute(update(checkpoints).where(checkpoints.c.size == 2).values(note="no note"))
    assert found(any_workspace) == {"changed-checkpoint", "bad-cosignature"}


def test_a_witness_that_never_signed_is_missed(ledger, any_workspace):
    assert found(any_workspace, WITNESS) == {"unwitnessed"}


def test_a_forged_witness_leaf_is_named(ledger, any_workspace):
    ledger.append([Statement(kind="witness", subject=digest_bytes(b"x"), name=WITNESS.vkey)])
    ledger.append([Statement(kind="witness", subject=WITNESS.digest, name="nonsense")])
    assert [fault.kind for fault in verify(any_workspace).faults] == ["bad-witness", "bad-witness"]
    with ledger.database.write() as connection:
        connection.execute(insert(cosignatures).values(size=2, witness=WITNESS.digest, line="nonsense"))
    assert "bad-cosignature" in found(any_workspace)


def test_a_witness_signs_only_what_grew(ledger, tmp_path):
    seen = tmp_path / "seen"
    options = {"verifier": ledger.signer.public, "seen": seen, "name": NAME, "private": PRIVATE, "time_s": 5}
    first = ledger.checkpoint()
    witness_checkpoint(first, proof=None, **options)
    witness_checkpoint(first, proof=None, **options)
    ledger.append([statement("more")])
    second = ledger.checkpoint()
    with pytest.raises(CosignatureRefused, match="proof of growth"):
        witness_checkpoint(second, proof=None, **options)
    proof = prove_consistency(ledger, 2).to_bytes().decode()
    ledger.append([statement("more still")])
    with pytest.raises(CosignatureRefused, match="another checkpoint"):
        witness_checkpoint(ledger.checkpoint(), proof=proof, **options)
    line = witness_checkpoint(second, proof=proof, **options)
    assert add_cosignatures(ledger, second + line) == [WITNESS]
    with pytest.raises((CosignatureRefused, ProofRefused)):
        witness_checkpoint(first, proof=proof, **options)
    assert seen.read_text() == second
