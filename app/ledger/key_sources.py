"""Where a private key lies: in a 0600 file, in the environment, or on a PKCS#11 token.

A key's folder holds ``NAME.pub`` (its verifier key) and either ``NAME.pem`` (PKCS#8, on request under a passphrase) or
``NAME.ref``: one line, ``env:VARIABLE`` or a ``pkcs11:`` URI (RFC 7512). $SIGNALBOX_KEY_<NAME>, a PEM, goes before
both, so that a container needs no private file; $SIGNALBOX_PASSPHRASE_<NAME> opens an encrypted PEM.

Guarantees: whatever the source, the private half must fit the public file; no secret is written but the 0600 file.
Not guaranteed: that the environment of a process is secret from its account.
"""

import os
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.errors import UsageError
from app.ledger.keys import (
    KeyUnreadable,
    PrivateKey,
    Signer,
    check_name,
    load_public,
    parse_pem,
    read_pem,
    write_once,
    write_pem,
)
from app.ledger.token import TOKEN_SCHEME, open_token_key

ENV_SCHEME = "env:"


class NoSuchKey(UsageError):
    """There is no key of that name: make one with `signalbox keys new`."""


class KeyExists(UsageError):
    """A key of that name is there already: use it, or take another name."""


class BadKeySource(UsageError):
    """A key comes from `env:VARIABLE` or a `pkcs11:` URI; without a source it is a file."""


def make_signer(keys_dir: Path, name: str, role: str, *, source: str = "", passphrase: str = "") -> Signer:
    """Make a key's files: a new private file, or a reference to a source that holds the key already.

    Raises:
        KeyExists: the name is taken.
        BadKeySource, KeyUnreadable: the source is of no known form, or holds no Ed25519 key.
    """
    check_name(name, role)
    if (keys_dir / f"{name}.pub").exists():
        raise KeyExists(f"there is a key {name!r} already: use it, or take another name")
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if source:
        private = _open_source(source, name)
        write_once(keys_dir / f"{name}.ref", f"{source}\n".encode(), mode=0o600)
    else:
        write_pem(keys_dir / f"{name}.pem", Ed25519PrivateKey.generate(), passphrase)
        private = read_pem(keys_dir / f"{name}.pem", passphrase)
    signer = Signer(name=name, role=role, private=private)
    write_once(keys_dir / f"{name}.pub", f"{signer.public.vkey}\n".encode(), mode=0o644)
    return signer


def open_signer(keys_dir: Path, name: str) -> Signer:
    """The key of that name, from wherever its private half lies.

    Raises:
        NoSuchKey: there is none.
        KeyUnreadable: its private half cannot be had, or is not that of its public file.
    """
    public_path = keys_dir / f"{name}.pub"
    if not re.fullmatch(r"[a-z0-9._-]+", name) or not public_path.exists():
        raise NoSuchKey(f"there is no key {name!r}: make it with `signalbox keys new {name} --role ROLE --person NAME`")
    public = load_public(public_path)
    signer = Signer(name=public.name, role=public.role, private=_open_private(keys_dir, name))
    if signer.public != public:
        raise KeyUnreadable(f"the private half of key {name!r} does not fit {public_path.name}: restore the right pair")
    return signer


def _open_private(keys_dir: Path, name: str) -> PrivateKey:
    if pem := os.environ.get(_variable("SIGNALBOX_KEY", name)):
        return _from_text(pem, _variable("SIGNALBOX_KEY", name), name)
    reference = keys_dir / f"{name}.ref"
    if reference.exists():
        return _open_source(reference.read_text("utf-8").strip(), name)
    return read_pem(keys_dir / f"{name}.pem", _passphrase(name))


def _open_source(source: str, name: str) -> PrivateKey:
    if source.startswith(TOKEN_SCHEME):
        return open_token_key(source)
    if not source.startswith(ENV_SCHEME):
        raise BadKeySource(f"{source[:60]!r} is no source of a key: give env:VARIABLE or a pkcs11: URI")
    variable = source.removeprefix(ENV_SCHEME)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise BadKeySource(f"{source[:60]!r} names no variable of the environment: write env:VARIABLE")
    pem = os.environ.get(variable)
    if not pem:
        raise KeyUnreadable(f"${variable} is not set: put the PEM of key {name!r} into it")
    return _from_text(pem, variable, name)


def _from_text(pem: str, variable: str, name: str) -> Ed25519PrivateKey:
    return parse_pem(pem.replace("\\n", "\n").encode(), where=f"${variable}", passphrase=_passphrase(name))


def _passphrase(name: str) -> str:
    return os.environ.get(_variable("SIGNALBOX_PASSPHRASE", name), "")


def _variable(prefix: str, name: str) -> str:
    return f"{prefix}_{re.sub('[^A-Z0-9]', '_', name.upper())}"
