"""HTTP requests that are signed by a key of the ledger: who asks is known, and the server never sees a private key.

Source: RFC 9421 (HTTP Message Signatures) with ``ed25519``, RFC 9530 (``content-digest``). Covered are method,
authority, path, query and the body's digest; the key id is the verifier key.
Guarantees: a request counts for one minute and once, in one replica, by its nonce, and at the authorities that the
gateway answers for alone: one that was sent to another host cannot be passed on. Not guaranteed: against a replay to
another replica within that minute; reading twice does no harm, and a decision recorded twice is recorded once.
"""

import base64
import binascii
import hashlib
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from app.ledger.keys import KeyUnreadable, Signer, Verifier
from app.serving.errors import ApiError

LIFETIME_S = 60
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
COVERED = ("@method", "@authority", "@path", "@query")
CONTENT_DIGEST = "content-digest"
INPUT = re.compile(r"(?P<label>[a-z][a-z0-9_.*-]*)=(?P<params>\((?P<names>[^()]*)\)(?P<rest>(?:;[^,]*)?))")
PARAMETER = re.compile(r';([a-z][a-z0-9_.*-]*)=("([^"]*)"|-?[0-9]+)')


class Unsigned(ApiError):
    """The request is not signed as it must be; 401."""

    def __init__(self, reason: str) -> None:
        message = f"the request is not signed by a key on record ({reason}): sign it, as `signalbox approvals` does"
        super().__init__(message, status=401, kind="authentication_error", code="bad_signature")


@dataclass(frozen=True)
class Message:
    """The parts of a request that a signature covers."""

    method: str
    authority: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    def base(self, names: list[str], params: str) -> bytes:
        """The signature base (RFC 9421, 2.5); Unsigned when a component is not there."""
        lines = [f'"{name}": {self._value(name)}' for name in names]
        return "\n".join([*lines, f'"@signature-params": {params}']).encode()

    def _value(self, name: str) -> str:
        derived = {"@method": self.method, "@authority": self.authority.lower(), "@path": self.path or "/"}
        derived["@query"] = f"?{self.query}"
        value = derived.get(name, self.headers.get(name))
        if value is None:
            raise Unsigned(f"it has no {name}")
        return value.strip()


def sign_request(method: str, url: str, *, signer: Signer, body: bytes = b"") -> dict[str, str]:
    """The headers that sign a request."""
    where, names = httpx.URL(url), list(COVERED)
    headers: dict[str, str] = {}
    if body:
        headers[CONTENT_DIGEST] = content_digest(body)
        names.append(CONTENT_DIGEST)
    listed = " ".join(f'"{name}"' for name in names)
    params = f'({listed});created={int(time.time())};nonce="{secrets.token_urlsafe(16)}"'
    params += f';keyid="{signer.public.vkey}";alg="ed25519"'
    path = where.raw_path.decode().partition("?")[0]
    message = Message(method, where.netloc.decode(), path, where.query.decode(), headers, body)
    signature = base64.b64encode(signer.sign(message.base(names, params))).decode()
    return {**headers, "signature-input": f"sig={params}", "signature": f"sig=:{signature}:"}


@dataclass
class Gatekeeper:
    """Checks signed requests, and remembers their nonces for as long as they could be sent again.

    ``authorities`` are ``host`` (any port) or ``host:port``; by default loopback and that of $SIGNALBOX_URL.
    """

    authorities: tuple[str, ...] = field(default_factory=lambda: own_authorities())
    seen: dict[str, float] = field(default_factory=dict)

    def check(self, message: Message, *, now_s: float | None = None) -> Verifier:
        """Whose request it is; whether that key is on record is for the caller to ask.

        Raises:
            Unsigned: the signature is missing, too old, sent before, or does not hold.
        """
        now_s = time.time() if now_s is None else now_s
        names, params, stated, signature = _parse(message.headers)
        needed = {*COVERED, *([CONTENT_DIGEST] if message.body else [])}
        if missing := sorted(needed - set(names)):
            raise Unsigned(f"its signature does not cover {', '.join(missing)}")
        if message.body and message.headers.get(CONTENT_DIGEST) != content_digest(message.body):
            raise Unsigned("its body is not the one that was signed")
        if not _answers(message.authority, self.authorities):
            named = f"it is for {message.authority[:80]!r}, and this gateway answers for {', '.join(self.authorities)}"
            raise Unsigned(f"{named}; its operator names more with `authorities` in the Serve config")
        verifier = _verifier(stated.get("keyid", ""))
        if stated.get("alg", "ed25519") != "ed25519" or not verifier.verify(signature, message.base(names, params)):
            raise Unsigned("its signature does not hold")
        self._check_fresh(stated, now_s)
        return verifier

    def _check_fresh(self, stated: Mapping[str, str], now_s: float) -> None:
        nonce, created = stated.get("nonce", ""), stated.get("created", "")
        if not nonce or not re.fullmatch("[0-9]{1,12}", created) or abs(now_s - int(created)) > LIFETIME_S:
            raise Unsigned(f"it was made more than {LIFETIME_S} s from now, or has no nonce")
        for old in [each for each, end_s in self.seen.items() if end_s < now_s]:
            del self.seen[old]
        if nonce in self.seen:
            raise Unsigned("it was sent before")
        self.seen[nonce] = now_s + 2 * LIFETIME_S


def own_authorities() -> tuple[str, ...]:
    """Loopback, whatever the port, and the authority of $SIGNALBOX_URL, where the cluster was told to serve."""
    url = httpx.URL(os.environ.get("SIGNALBOX_URL", ""))
    return tuple(dict.fromkeys((*LOOPBACK, *([url.netloc.decode().lower()] if url.host else ()))))


def _answers(authority: str, known: Sequence[str]) -> bool:
    """Whether an authority is one of those known; one known without a port goes with every port."""
    host = re.sub(r":[0-9]*$", "", authority.lower())
    return any(each.lower() in (authority.lower(), host) for each in known)


def content_digest(body: bytes) -> str:
    """RFC 9530: the body's SHA-256."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def _parse(headers: Mapping[str, str]) -> tuple[list[str], str, dict[str, str], bytes]:
    """Covered components, the parameters as they were written, the same by name, and the signature."""
    match = INPUT.fullmatch(headers.get("signature-input", "").strip())
    if match is None:
        raise Unsigned("it has no header signature-input of one signature")
    sent = re.fullmatch(rf"{re.escape(match['label'])}=:([A-Za-z0-9+/=]+):", headers.get("signature", "").strip())
    names = re.findall(r'"([^"]+)"', match["names"])
    stated = {name: text or value for name, value, text in PARAMETER.findall(match["rest"])}
    try:
        signature = base64.b64decode(sent[1], validate=True) if sent else b""
    except binascii.Error:
        signature = b""
    if not signature or len(set(names)) != len(names):
        raise Unsigned("its header signature is missing or damaged")
    return names, match["params"], stated, signature


def _verifier(key_id: str) -> Verifier:
    try:
        return Verifier.parse(key_id)
    except KeyUnreadable as error:
        raise Unsigned("its keyid is no verifier key") from error
