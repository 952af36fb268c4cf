"""Ed25519 keys: a private half, a public file, and a role that belongs to the key's name.

Purpose: one place that makes and names keys; where private halves lie besides files says ``app.ledger.key_sources``.
A key is known as ``role/name`` (``approver/jane``) and written for others as a C2SP verifier key,
``role/name+<key id>+<base64>`` (https://c2sp.org/signed-note): its role cannot change without changing the key id that
every signature carries.

Guarantees: a private key is never written with wider permissions than 0600 and never overwritten; two processes that
create the same key at once end up with the same one. Not guaranteed: secrecy against the account that owns the file.
"""

import base64
import binascii
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.core.digests import canonical_json, digest_bytes
from app.core.errors import SignalboxError, UsageError

ROLES = ("trainer", "approver", "reviewer", "auditor", "service")
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ED25519 = b"\x01"


class PrivateKey(Protocol):
    """What signs: a key of the ``cryptography`` library, or one that never leaves its token."""

    def sign(self, data: bytes, /) -> bytes: ...
    def public_key(self) -> Ed25519PublicKey: ...


class KeyUnreadable(SignalboxError):
    """A key file is missing or damaged: restore it from its backup, or make a new key under another name."""


class KeyRoleMismatch(UsageError):
    """A key of that name has another role: use a key of the role asked for, or another name."""


class BadKeyName(UsageError):
    """A key's name has 1 to 64 of a-z, 0-9, dot, dash and underscore, and a known role."""


@dataclass(frozen=True)
class Verifier:
    """The public half of a key: who signed (``role/name``) and a way to check it."""

    role: str
    name: str
    raw: bytes

    @property
    def key_name(self) -> str:
        return f"{self.role}/{self.name}"

    @property
    def key_id(self) -> bytes:
        """Short name of the key that every signature line carries."""
        return key_id_of(self.key_name, self.raw)

    @property
    def vkey(self) -> str:
        return f"{self.key_name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.raw).decode()}"

    @property
    def digest(self) -> str:
        """Digest of the raw public key: the same for one key under two names or roles."""
        return digest_bytes(self.raw)

    def verify(self, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    @classmethod
    def parse(cls, vkey: str) -> "Verifier":
        """Read a verifier key; KeyUnreadable when its parts do not belong together."""
        parts = vkey.strip().split("+", 2)
        try:
            key_name, key_id, encoded = parts
            role, name = key_name.split("/", 1)
            body = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error) as error:
            raise KeyUnreadable(f"not a verifier key: {vkey[:80]!r}; expected role/name+id+base64") from error
        verifier = cls(role=role, name=name, raw=body[1:])
        if body[:1] != ED25519 or len(body) != 33 or verifier.key_id.hex() != key_id:
            raise KeyUnreadable(f"verifier key {key_name!r} is damaged: its id does not fit its bytes; fetch it again")
        return verifier


@dataclass(frozen=True)
class Signer:
    """A private Ed25519 key with its name and role."""

    name: str
    role: str
    private: PrivateKey

    @property
    def public(self) -> Verifier:
        return Verifier(role=self.role, name=self.name, raw=self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)

    @classmethod
    def generate(cls, name: str, role: str) -> "Signer":
        """A new key in memory only."""
        check_name(name, role)
        return cls(name=name, role=role, private=Ed25519PrivateKey.generate())


def key_id_of(key_name: str, raw: bytes) -> bytes:
    """First four bytes of SHA-256(name || LF || 0x01 || public key), as C2SP signed-note asks."""
    return hashlib.sha256(key_name.encode() + b"\n" + ED25519 + raw).digest()[:4]


def load_or_create(keys_dir: Path, name: str, role: str) -> Signer:
    """The key of that name, made on first use: ``<name>.pem`` (0600) and ``<name>.pub`` (verifier key) in ``keys_dir``.

    Raises:
        KeyRoleMismatch: the key exists with another role.
        KeyUnreadable: the key file is not an Ed25519 PEM key.
    """
    check_name(name, role)
    private_path, public_path = keys_dir / f"{name}.pem", keys_dir / f"{name}.pub"
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not public_path.exists() and not private_path.exists():
        write_pem(private_path, Ed25519PrivateKey.generate())
    signer = Signer(name=name, role=role, private=read_pem(private_path))
    write_once(public_path, signer.public.vkey.encode() + b"\n", mode=0o644)
    known = load_public(public_path)
    if known.raw == signer.public.raw and known.role != role:
        raise KeyRoleMismatch(f"key {name!r} has the role {known.role!r}, not {role!r}: use another key or name")
    if known != signer.public:
        raise KeyUnreadable(f"{private_path} and {public_path.name} are not halves of one key: restore the right pair")
    return signer


def load_public(path: Path) -> Verifier:
    try:
        return Verifier.parse(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise KeyUnreadable(f"cannot read the public key {path}: restore it from its backup ({error})") from error


def public_keys(keys_dir: Path) -> list[Verifier]:
    """All public keys of a folder, by file name."""
    return [load_public(path) for path in sorted(keys_dir.glob("*.pub"))]


def sign_facts(body: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """``{"body", "key", "signature"}``: an Ed25519 signature over the canonical JSON of ``body``."""
    signature = base64.b64encode(signer.sign(canonical_json(dict(body)))).decode()
    return {"body": dict(body), "key": signer.public.vkey, "signature": signature}


def facts_signer(signed: Mapping[str, Any]) -> Verifier | None:
    """Who signed the result of ``sign_facts``; None when anything about it does not hold."""
    try:
        verifier = Verifier.parse(str(signed["key"]))
        signature = base64.b64decode(str(signed["signature"]), validate=True)
        body = canonical_json(signed["body"])
    except (KeyError, TypeError, ValueError, KeyUnreadable):
        return None
    return verifier if verifier.verify(signature, body) else None


def check_name(name: str, role: str) -> None:
    """BadKeyName unless both can name a key."""
    if not NAME_PATTERN.fullmatch(name):
        raise BadKeyName(f"{name!r} cannot name a key: use 1 to 64 of a-z, 0-9, dot, dash, underscore")
    if role not in ROLES:
        raise BadKeyName(f"{role!r} is not a role: use one of {', '.join(ROLES)}")


def write_pem(path: Path, key: Ed25519PrivateKey, passphrase: str = "") -> None:
    """Write a private key as PKCS#8, encrypted when there is a passphrase; a file that is there stays as it is."""
    sealed = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)
    write_once(path, pem, mode=0o600)


def write_once(path: Path, data: bytes, *, mode: int) -> None:
    """Write a whole file that did not exist; whoever comes second keeps the first one's file."""
    if path.exists():
        return
    handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staged, mode)
        os.link(staged, path)
    except FileExistsError:
        return
    finally:
        os.unlink(staged)


def read_pem(path: Path, passphrase: str = "") -> Ed25519PrivateKey:
    """A private key's file; KeyUnreadable when it is none, or not under that passphrase."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KeyUnreadable(f"cannot read the private key {path}: restore it from its backup ({error})") from error
    return parse_pem(data, where=str(path), passphrase=passphrase)


def parse_pem(data: bytes, *, where: str, passphrase: str = "") -> Ed25519PrivateKey:
    """An Ed25519 key in PEM; KeyUnreadable when it is none, or not under that passphrase."""
    try:
        key = serialization.load_pem_private_key(data, password=passphrase.encode() or None)
    except (ValueError, TypeError) as error:
        raise KeyUnreadable(f"cannot read the private key {where}: restore it, or set its passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnreadable(f"{where} is not an Ed25519 key: restore it from its backup")
    return key
