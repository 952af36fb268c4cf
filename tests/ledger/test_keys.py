"""Keys: file modes, roles that stick to their key, signatures that bind."""

import stat
import threading

import pytest

from app.ledger.keys import (
    BadKeyName,
    KeyRoleMismatch,
    KeyUnreadable,
    Signer,
    Verifier,
    facts_signer,
    load_or_create,
    public_keys,
    sign_facts,
)


def test_a_key_is_made_once_and_its_private_file_is_0600(tmp_path):
    first = load_or_create(tmp_path / "keys", "jane", "approver")
    again = load_or_create(tmp_path / "keys", "jane", "approver")
    assert first.public == again.public
    assert stat.S_IMODE((tmp_path / "keys" / "jane.pem").stat().st_mode) == 0o600
    assert public_keys(tmp_path / "keys") == [first.public]


def test_a_key_keeps_its_role(tmp_path):
    load_or_create(tmp_path, "bob", "trainer")
    with pytest.raises(KeyRoleMismatch, match="trainer"):
        load_or_create(tmp_path, "bob", "approver")


def test_a_damaged_key_is_never_replaced(tmp_path):
    load_or_create(tmp_path, "bob", "trainer")
    (tmp_path / "bob.pem").write_text("not a key")
    with pytest.raises(KeyUnreadable, match=r"bob\.pem"):
        load_or_create(tmp_path, "bob", "trainer")


def test_a_lost_private_half_is_not_made_anew(tmp_path):
    load_or_create(tmp_path, "bob", "trainer")
    (tmp_path / "bob.pem").unlink()
    with pytest.raises(KeyUnreadable, match="restore"):
        load_or_create(tmp_path, "bob", "trainer")


def test_halves_of_two_keys_are_refused(tmp_path):
    load_or_create(tmp_path, "bob", "trainer")
    (tmp_path / "bob.pub").write_text(Signer.generate("bob", "trainer").public.vkey)
    with pytest.raises(KeyUnreadable, match="halves"):
        load_or_create(tmp_path, "bob", "trainer")


@pytest.mark.parametrize(("name", "role"), [("", "approver"), ("../x", "approver"), ("a b", "trainer"), ("a", "boss")])
def test_bad_names_and_roles_are_refused(tmp_path, name, role):
    with pytest.raises(BadKeyName):
        load_or_create(tmp_path, name, role)


def test_racing_creators_share_one_key(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(load_or_create(tmp_path, "service", "service"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({signer.public for signer in made}) == 1


def test_a_verifier_key_reads_back_and_its_role_cannot_be_edited():
    verifier = Signer.generate("bob", "trainer").public
    assert Verifier.parse(verifier.vkey) == verifier
    with pytest.raises(KeyUnreadable, match="damaged"):
        Verifier.parse(verifier.vkey.replace("trainer/", "approver/"))
    with pytest.raises(KeyUnreadable):
        Verifier.parse("nonsense")


def test_signed_facts_bind_body_and_key():
    signer = Signer.generate("jane", "approver")
    signed = sign_facts({"artifact": "sha256:1", "meaning": "approved"}, signer)
    assert facts_signer(signed) == signer.public
    assert facts_signer({**signed, "body": {**signed["body"], "artifact": "sha256:2"}}) is None
    assert facts_signer({**signed, "key": Signer.generate("jane", "approver").public.vkey}) is None
    assert facts_signer({**signed, "signature": "AAAA"}) is None
    assert facts_signer({}) is None
