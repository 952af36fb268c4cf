"""Ed25519 keys on a PKCS#11 token: the private half never leaves it.

Sources: RFC 7512 (the ``pkcs11:`` URI), PKCS#11 3.0 (mechanism CKM_EDDSA, key type CKK_EC_EDWARDS).
Guarantees: only ``sign`` is asked of the token; the public half is read from it when the key is opened.
Not guaranteed: that a token keeps its keys. Needs the extra ``pkcs11``.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.core.errors import UsageError
from app.ledger.keys import KeyUnreadable

TOKEN_SCHEME = "pkcs11:"
MODULE_VARIABLE, PIN_VARIABLE = "SIGNALBOX_PKCS11_MODULE", "SIGNALBOX_PKCS11_PIN"


class BadTokenUri(UsageError):
    """A PKCS#11 URI names a token and an object, as pkcs11:token=LABEL;object=LABEL?module-path=PATH does."""


@dataclass(frozen=True)
class TokenUri:
    """The parts of a PKCS#11 URI that find one key."""

    token: str
    label: str
    key_id: bytes
    module_path: str
    pin_source: str

    @classmethod
    def parse(cls, uri: str) -> "TokenUri":
        """Read a URI; BadTokenUri when it finds no single key, or carries the PIN itself."""
        path, _, query = uri.removeprefix(TOKEN_SCHEME).partition("?")
        known = dict(part.partition("=")[::2] for part in [*path.split(";"), *query.split("&")] if part)
        if "pin-value" in known:
            raise BadTokenUri(f"a PIN does not belong in a URI that is kept: put it into ${PIN_VARIABLE} or pin-source")
        if not uri.startswith(TOKEN_SCHEME) or "token" not in known or not known.keys() & {"object", "id"}:
            raise BadTokenUri(f"{uri[:80]!r} names no token and object: write pkcs11:token=LABEL;object=LABEL")
        named = {key: unquote(value) for key, value in known.items() if key != "id"}
        module_path = named.get("module-path") or os.environ.get(MODULE_VARIABLE, "")
        if not module_path:
            raise BadTokenUri(f"the PKCS#11 module is not named: add ?module-path=FILE or set ${MODULE_VARIABLE}")
        raw_id = unquote(known.get("id", ""), encoding="latin-1").encode("latin-1")
        return cls(named["token"], named.get("object", ""), raw_id, module_path, named.get("pin-source", ""))

    def pin(self) -> str | None:
        """From ``pin-source`` (a path or file URI), else from the environment."""
        if self.pin_source:
            return Path(urlsplit(self.pin_source).path).read_text("utf-8").strip()
        return os.environ.get(PIN_VARIABLE)


@dataclass(frozen=True)
class TokenKey:
    """A private key that stays on its token."""

    handle: Any
    public: Ed25519PublicKey

    def sign(self, data: bytes, /) -> bytes:
        from pkcs11 import Mechanism, PKCS11Error

        try:
            return bytes(self.handle.sign(data, mechanism=Mechanism.EDDSA))
        except PKCS11Error as error:
            raise KeyUnreadable(f"the token did not sign ({_said(error)}): look whether it is plugged in") from error

    def public_key(self) -> Ed25519PublicKey:
        return self.public


def open_token_key(uri: str) -> TokenKey:
    """Log in to a token and find its Ed25519 key.

    Raises:
        BadTokenUri: the URI finds no single key.
        KeyUnreadable: module, token, PIN or key are not there.
    """
    where = TokenUri.parse(uri)
    try:
        import pkcs11
    except ImportError as error:
        raise KeyUnreadable("keys on a token need python-pkcs11: pip install 'signalbox[pkcs11]'") from error
    try:
        session = _session(where.module_path, where.token, where.pin())
        found = {"label": where.label or None, "id": where.key_id or None, "key_type": pkcs11.KeyType.EC_EDWARDS}
        private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, **found)
        point = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, **found)[pkcs11.Attribute.EC_POINT]
    except (pkcs11.PKCS11Error, OSError, RuntimeError) as error:
        raise KeyUnreadable(f"cannot open {uri.partition('?')[0]} ({_said(error)}): check label and PIN") from error
    return TokenKey(private, Ed25519PublicKey.from_public_bytes(bytes(point)[-32:]))


@lru_cache(maxsize=8)
def _session(module_path: str, token: str, pin: str | None) -> Any:
    """One session for each token: a process logs in once."""
    import pkcs11

    return pkcs11.lib(module_path).get_token(token_label=token).open(user_pin=pin)


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
