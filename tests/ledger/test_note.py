"""Checkpoints as signed notes: the published form, and every damage refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger.keys import Signer, Verifier, key_id_of
from app.ledger.note import BadNote, Checkpoint, open_note, read_checkpoint, sign_note, signature_line

SIGNER = Signer.generate("service", "service")
WITNESS = Signer.generate("witness", "auditor")
CHECKPOINT = Checkpoint("signalbox/ledger/test", 7, bytes(range(32)))
NOTE = sign_note(CHECKPOINT.to_text(), SIGNER)


def test_form():
    lines = NOTE.split("\n")
    assert lines[:2] == ["signalbox/ledger/test", "7"]
    assert lines[3] == ""
    assert lines[4].startswith("— service/service ")
    assert lines[5:] == [""]


def test_reads_back():
    assert read_checkpoint(NOTE, [SIGNER.public]) == CHECKPOINT


def test_a_witness_signs_along():
    both = NOTE + signature_line(CHECKPOINT.to_text(), WITNESS)
    assert open_note(both, [SIGNER.public, WITNESS.public])[1] == [SIGNER.public, WITNESS.public]
    assert open_note(both, [SIGNER.public])[1] == [SIGNER.public]


def test_the_example_of_the_go_implementation():
    """The key and the signed note in the documentation of golang.org/x/mod/sumdb/note."""
    raw = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    assert key_id_of("PeterNeumann", raw) == signature[:4] == bytes.fromhex("c74f20a3")
    assert Verifier(role="", name="", raw=raw).verify(signature[4:], text.encode())


@pytest.mark.parametrize(
    "note",
    [
        "",
        "origin\n7\n",
        NOTE[:-1],
        NOTE.replace("— ", "- "),
        NOTE.replace("\n7\n", "\n8\n"),
        NOTE.replace("\n7\n", "\n07\n"),
        sign_note("origin\nx\nAAAA\n", SIGNER),
        sign_note("origin\n1\nAAAA\n", SIGNER),
    ],
)
def test_damage_is_refused(note):
    with pytest.raises(BadNote):
        read_checkpoint(note, [SIGNER.public])


def test_a_stranger_s_signature_is_not_enough():
    with pytest.raises(BadNote, match="not signed by"):
        read_checkpoint(NOTE, [Signer.generate("service", "service").public])


@given(st.integers(0, len(NOTE) - 1), st.characters(codec="ascii"))
def test_no_changed_character_passes(at, character):
    changed = NOTE[:at] + character + NOTE[at + 1 :]
    if changed == NOTE:
        return
    with pytest.raises(BadNote):
        read_checkpoint(changed, [SIGNER.public])
