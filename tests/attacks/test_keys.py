"""Attacks on keys: a revoked one, a borrowed one, a second one, a readable one."""

import os
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.digests import canonical_json
from app.governance.approvals import ApproverRefused
from app.governance.keys import KeyNotRevocable, KeyOnRecord, PersonMissing, enrol, key_book, list_keys, revoke_key
from app.ledger.key_sources import BadKeySource, KeyExists, NoSuchKey, open_signer
from app.ledger.keys import BadKeyName, KeyUnreadable, Signer, load_or_create
from app.ledger.log import KEY, Statement
from app.ledger.token import BadTokenUri, TokenUri
from tests.attacks.world import stage

SOFTHSM = next((path for path in ("/usr/lib/softhsm/libsofthsm2.so",) if os.path.exists(path)), None)
ED25519 = b"\x13\x0cedwards25519"
"""The curve's name as PKCS#11 3.0 has it: a PrintableString."""


@pytest.fixture
def play(registry, tmp_path):
    return stage(registry, tmp_path)


def pem_of(key):
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def test_a_new_key_is_on_record_and_its_file_is_private(play):
    signer = play.key()
    assert open_signer(play.registry.workspace.keys_dir, "jane").public == signer.public
    assert stat.S_IMODE((play.registry.workspace.keys_dir / "jane.pem").stat().st_mode) == 0o600
    entry = list_keys(play.registry)[0]
    assert (entry["key"], entry["revoked"]) == ("approver/jane", None)
    assert play.faults() == []
    with pytest.raises(KeyExists):
        play.key()


def test_a_key_whose_making_was_cut_short_is_put_on_record(play):
    signer = load_or_create(play.registry.workspace.keys_dir, "jane", "approver")
    play.registry.ledger.register_key(signer.public)
    assert key_book(play.registry).approver_objection(signer.public)
    with pytest.raises(KeyExists):
        play.key(role="reviewer")
    assert play.key().public == signer.public
    assert key_book(play.registry).approver_objection(signer.public) is None
    assert play.faults() == []


def test_no_leaf_and_no_key_manifest_holds_a_name(play):
    play.key("k1", person="Jane Doe")
    play.key("k2", role="reviewer", person="  JANE   doe")
    people = {event.person for event in key_book(play.registry).events}
    assert len(people) == 1, "one person, however the name was typed"
    for leaf in play.registry.ledger.leaves(KEY):
        written = leaf.statement.to_bytes() + canonical_json(play.registry.store.manifest(KEY, leaf.statement.payload))
        assert b"jane" not in written.lower()
    salt = play.registry.workspace.keys_dir / "person.salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (PersonMissing, {"person": " "}),
        (BadKeyName, {"role": "boss"}),
        (BadKeyName, {"name": "../x"}),
        (BadKeySource, {"source": "/etc/passwd"}),
        (KeyUnreadable, {"source": "env:NO_SUCH_VARIABLE"}),
        (BadTokenUri, {"source": "pkcs11:token=t;object=k?module-path=/x&pin-value=1234"}),
    ],
)
def test_what_makes_no_key(play, error, options):
    with pytest.raises(error):
        play.key(**options)
    assert list_keys(play.registry) == []


def test_a_key_that_is_not_there_names_the_command(workspace):
    with pytest.raises(NoSuchKey, match="signalbox keys new jane"):
        open_signer(workspace.keys_dir, "jane")
    with pytest.raises(NoSuchKey):
        open_signer(workspace.keys_dir, "../../etc/jane")


def test_a_revoked_key_is_refused_and_what_it_smuggles_is_named(play):
    signer = play.key()
    (release, verdict), (later, later_verdict) = play.candidate(), play.candidate()
    play.approve(release, verdict, signer)
    revoke_key(play.registry, "jane", reason="laptop stolen", actor="service")
    with pytest.raises(ApproverRefused, match=r"was revoked by leaf \d+ \(laptop stolen\)"):
        play.approve(later, later_verdict, signer)
    play.promote(release, verdict)
    assert play.production() == release.digest, "what it signed before holds"
    assert play.faults() == []
    play.smuggle(play.body(later, later_verdict, signer), signer)
    (fault,) = play.faults()
    assert fault.startswith("bad-approval: leaf ")
    assert "was revoked by leaf" in fault


def test_a_revocation_is_final(play):
    signer = play.key()
    revoke_key(play.registry, "approver/jane", reason="lost", actor="service")
    for act in (
        lambda: enrol(play.registry, signer.public, person="Jane Doe"),
        lambda: revoke_key(play.registry, "jane", reason="again", actor="service"),
        lambda: revoke_key(play.registry, "nobody", reason="x", actor="service"),
    ):
        with pytest.raises((KeyOnRecord, KeyNotRevocable)):
            act()
    play.registry.ledger.append([Statement(KEY, signer.public.digest, signer.public.vkey)])
    assert [fault.partition(":")[0] for fault in play.faults()] == ["revived-key"]
    assert key_book(play.registry).objection(signer.public)


def test_the_log_s_own_key_cannot_be_revoked(play):
    play.registry.ledger.register_key(play.registry.ledger.signer.public)
    with pytest.raises(KeyNotRevocable, match="signs the log"):
        revoke_key(play.registry, "service", reason="x", actor="service")


@pytest.mark.parametrize(("role", "person"), [("approver", "Eve"), ("reviewer", "Jane Doe")])
def test_a_key_is_of_one_person_and_one_role(play, role, person):
    signer = play.key()
    twin = Signer(name="twin", role=role, private=signer.private)
    with pytest.raises(KeyOnRecord):
        enrol(play.registry, twin.public, person=person)


def test_a_key_leaf_about_another_key_is_named(play):
    first, second = play.key(), Signer.generate("eve", "approver")
    play.registry.ledger.append([Statement(KEY, first.public.digest, second.public.vkey)])
    assert [fault.partition(":")[0] for fault in play.faults()] == ["bad-key"]


def test_a_key_from_the_environment(play, monkeypatch):
    private = Ed25519PrivateKey.generate()
    monkeypatch.setenv("MY_KEY", pem_of(private).replace("\n", "\\n"))
    signer = play.key(source="env:MY_KEY")
    assert signer.public.raw == private.public_key().public_bytes_raw()
    assert not (play.registry.workspace.keys_dir / "jane.pem").exists()
    monkeypatch.setenv("MY_KEY", pem_of(Ed25519PrivateKey.generate()))
    with pytest.raises(KeyUnreadable, match="does not fit"):
        open_signer(play.registry.workspace.keys_dir, "jane")
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(KeyUnreadable, match="MY_KEY is not set"):
        open_signer(play.registry.workspace.keys_dir, "jane")
    monkeypatch.setenv("SIGNALBOX_KEY_JANE", pem_of(private))
    assert open_signer(play.registry.workspace.keys_dir, "jane").public == signer.public


def test_an_encrypted_key_needs_its_passphrase(play, monkeypatch):
    signer = play.key(passphrase="open sesame")
    keys_dir = play.registry.workspace.keys_dir
    assert b"ENCRYPTED" in (keys_dir / "jane.pem").read_bytes()
    for wrong in ("", "shut"):
        monkeypatch.setenv("SIGNALBOX_PASSPHRASE_JANE", wrong)
        with pytest.raises(KeyUnreadable, match="passphrase"):
            open_signer(keys_dir, "jane")
    monkeypatch.setenv("SIGNALBOX_PASSPHRASE_JANE", "open sesame")
    assert open_signer(keys_dir, "jane").public == signer.public


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("pkcs11:object=k?module-path=/x", "names no token"),
        ("pkcs11:token=t?module-path=/x", "names no token"),
        ("pkcs11:token=t;object=k", "SIGNALBOX_PKCS11_MODULE"),
        ("pkcs11:token=t;object=k?module-path=/x&pin-value=1", "PIN does not belong"),
    ],
)
def test_a_token_s_uri_finds_one_key_and_holds_no_pin(uri, said, monkeypatch):
    monkeypatch.delenv("SIGNALBOX_PKCS11_MODULE", raising=False)
    with pytest.raises(BadTokenUri, match=said):
        TokenUri.parse(uri)


def test_a_token_s_uri_is_unescaped(tmp_path):
    (tmp_path / "pin").write_text("1234\n")
    uri = TokenUri.parse(
        f"pkcs11:token=My%20token;object=jane;id=%01%ff?module-path=/x.so&pin-source=file:{tmp_path}/pin"
    )
    assert (uri.token, uri.label, uri.key_id, uri.pin()) == ("My token", "jane", b"\x01\xff", "1234")


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A SoftHSM token with an Ed25519 key pair called ``jane``; its URI."""
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: pip install 'signalbox[pkcs11]'")
    if SOFTHSM is None or not shutil.which("softhsm2-util"):
        pytest.skip("SoftHSM is not installed: apt-get install softhsm2")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("SIGNALBOX_PKCS11_PIN", "1234")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "box", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(command, check=True, capture_output=True)
    with pkcs11.lib(SOFTHSM).get_token(token_label="box").open(user_pin="1234", rw=True) as session:
        named = {pkcs11.Attribute.EC_PARAMS: ED25519}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC_EDWARDS, named, local=True)
        parameters.generate_keypair(mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="jane")
    return f"pkcs11:token=box;object=jane?module-path={SOFTHSM}"


def test_a_key_on_a_token_signs_and_never_leaves_it(play, token, monkeypatch):
    signer = play.key(source=token)
    release, verdict = play.candidate()
    play.approve(release, verdict, signer)
    play.promote(release, verdict)
    assert play.faults() == []
    assert not (play.registry.workspace.keys_dir / "jane.pem").exists()
    with pytest.raises(KeyUnreadable, match="check label and PIN"):
        play.key("ann", person="Ann", source=token.replace("object=jane", "object=ann"))
