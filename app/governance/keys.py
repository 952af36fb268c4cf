"""Keys of a workspace and their persons: make, enrol, list, revoke. Every one of these is a leaf.

A person stands in the ledger as a pseudonym: HMAC-SHA256, under the workspace's own 0600 secret ``keys/person.salt``,
of the printed name (Unicode NFKC, case and spaces folded). The same person has the same pseudonym under every key, so
that separation of duties can be checked by anyone; without the secret the name cannot be guessed back from it.
Guarantees: no personal data in a leaf; a revoked key stays revoked. Not guaranteed: that a person is who the registrar
was told; whoever enrols keys must look at the person.
"""

import hmac
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any

from app.core.errors import UsageError
from app.core.store import ArtifactMissing
from app.ledger.key_book import NEW, REVOKE, KeyBook, KeyEvent
from app.ledger.key_sources import KeyExists, make_signer, open_signer
from app.ledger.keys import Signer, Verifier, write_once
from app.ledger.log import KEY, Statement
from app.registry.versions import Registry

SALT_FILE = "person.salt"
PERSONAL_ROLES = ("trainer", "approver", "reviewer", "auditor")


class PersonMissing(UsageError):
    """A key of that role belongs to a person: give --person with the name that is printed beside its signatures."""


class KeyNotRevocable(UsageError):
    """That key cannot be revoked: it is not on record, is revoked already, or signs the log itself."""


class SaltLost(UsageError):
    """The secret behind all pseudonyms is gone: restore `keys/person.salt` from a backup."""


class KeyOnRecord(UsageError):
    """The key is on record for another person, under another role, or as revoked: make a new one."""


def new_key(
    registry: Registry, name: str, *, role: str, person: str = "", source: str = "", passphrase: str = ""
) -> Signer:
    """Make a key and put it on record; one whose files are there, but which belongs to no person yet, is put on record.

    Args:
        person: printed name of whom it belongs to; every role but ``service`` needs one.
        source: ``env:VARIABLE`` or a ``pkcs11:`` URI of a key that exists; by default a new private file.

    Raises:
        PersonMissing: a key of that role needs a person.
        KeyExists, BadKeyName, BadKeySource, KeyUnreadable: as for ``make_signer``.
    """
    _check_person(role, person)
    keys_dir = registry.workspace.keys_dir
    try:
        signer = make_signer(keys_dir, name, role, source=source, passphrase=passphrase)
    except KeyExists:
        signer = open_signer(keys_dir, name)
        if signer.role != role or key_book(registry).person(signer.public.digest) or not person:
            raise
    enrol(registry, signer.public, person=person)
    return signer


def enrol(registry: Registry, verifier: Verifier, *, person: str = "") -> None:
    """Put a public key on record for a person; the same again changes nothing.

    Raises:
        KeyOnRecord: it is on record otherwise.
    """
    _check_person(verifier.role, person)
    pseudonym = pseudonym_of(registry, person) if person else ""
    known = [each for each in key_book(registry).events if each.verifier.digest == verifier.digest]
    if any(each.event == REVOKE for each in known):
        raise KeyOnRecord(f"key {verifier.key_name} was revoked, which is final: make a new key")
    if any((each.verifier, each.person) == (verifier, pseudonym) for each in known):
        return
    if any(each.verifier != verifier or each.person not in ("", pseudonym) for each in known):
        raise KeyOnRecord(f"key {verifier.key_name} is on record for another person or role: make a new key")
    _append(registry, verifier, {"event": NEW, "person": pseudonym}, actor=registry.ledger.signer.name)


def revoke_key(registry: Registry, name: str, *, reason: str, actor: str) -> None:
    """Revoke a key by its name: signatures whose leaf comes later do not count, earlier ones hold.

    Raises:
        KeyNotRevocable: there is nothing to revoke, or it is the log's own key.
    """
    book = key_book(registry)
    named = {
        each.verifier
        for each in book.registered()
        if name in (each.verifier.name, each.verifier.key_name, each.verifier.vkey)
    }
    found = [each for each in named if not book.revocation(each.digest)] or list(named)
    if len(found) > 1:
        listed = ", ".join(sorted(each.vkey for each in found))
        raise KeyNotRevocable(f"{len(found)} keys are called {name!r}: name one by its verifier key ({listed})")
    if not found or not reason.strip():
        raise KeyNotRevocable(f"no key {name!r} is on record, or no reason was given: see `signalbox keys list`")
    verifier = found[0]
    if verifier.digest == registry.ledger.signer.public.digest:
        raise KeyNotRevocable(f"{verifier.key_name} signs the log: a log lives and ends with its key, begin a new one")
    if key_book(registry).revocation(verifier.digest):
        raise KeyNotRevocable(f"key {verifier.key_name} is revoked already: see `signalbox keys list`")
    _append(registry, verifier, {"event": REVOKE, "reason": reason}, actor=actor)


def key_book(registry: Registry) -> KeyBook:
    """Every key event of the registry's ledger."""
    return KeyBook.read(registry.ledger.leaves(KEY), manifests_of(registry))


def list_keys(registry: Registry) -> list[dict[str, Any]]:
    """One entry for each key on record, oldest first."""
    book = key_book(registry)
    return [_entry(each, book) for each in book.registered()]


def pseudonym_of(registry: Registry, person: str) -> str:
    """The person's pseudonym in this workspace."""
    path = registry.workspace.keys_dir / SALT_FILE
    if not path.exists():
        if any(event.person for event in key_book(registry).events):
            raise SaltLost(f"{path} is gone: restore it from a backup, or one person would become two")
        write_once(path, secrets.token_hex(32).encode(), mode=0o600)
    shown = "".join(each for each in unicodedata.normalize("NFKC", person) if unicodedata.category(each) != "Cf")
    folded = " ".join(unicodedata.normalize("NFKC", shown.casefold()).split())
    return f"person:{hmac.digest(path.read_bytes(), folded.encode(), 'sha256').hex()[:32]}"


def manifests_of(registry: Registry) -> Any:
    """Manifest by kind and digest; None where the store has none."""

    def find(kind: str, digest: str) -> Mapping[str, Any] | None:
        try:
            return registry.store.manifest(kind, digest)
        except (ArtifactMissing, ValueError):
            return None

    return find


def _append(registry: Registry, verifier: Verifier, facts: dict[str, Any], *, actor: str) -> None:
    record = {"kind": KEY, "name": verifier.vkey, "inputs": {"key": verifier.digest}, "parents": [], "facts": facts}
    payload = registry.store.publish(KEY, None, record)
    statement = Statement(kind=KEY, subject=verifier.digest, name=verifier.vkey, payload=payload, actor=actor)
    registry.ledger.append([statement])


def _check_person(role: str, person: str) -> None:
    if role in PERSONAL_ROLES and not person.strip():
        raise PersonMissing(f"a key of the role {role} belongs to a person: give the printed name with --person")


def _entry(event: KeyEvent, book: KeyBook) -> dict[str, Any]:
    revoked = book.revocation(event.verifier.digest)
    return {
        "key": event.verifier.key_name,
        "role": event.verifier.role,
        "person": event.person,
        "since": event.time,
        "revoked": revoked.time if revoked else None,
        "reason": revoked.reason if revoked else None,
        "vkey": event.verifier.vkey,
    }
