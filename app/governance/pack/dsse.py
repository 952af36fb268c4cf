"""in-toto statements in DSSE envelopes under an Ed25519 key.

Sources: https://github.com/secure-systems-lab/dsse (protocol v1), https://github.com/in-toto/attestation (v1).
Guarantees: ``open_envelope`` returns only what the key signed; the payload type is part of what is signed.
Not guaranteed: that what a statement says is so; it says who says it.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.core.digests import canonical_json, hex_of
from app.core.errors import SignalboxError
from app.ledger.keys import Signer, Verifier

PAYLOAD_TYPE = "application/vnd.in-toto+json"
Subjects = Sequence[tuple[str, str]]


class BadEnvelope(SignalboxError):
    """An attestation is damaged or not signed by the key: fetch the pack again, or treat it as tampered with."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def statement(subjects: Subjects, predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto statement v1, checked by the protocol's own library.

    Args:
        subjects: names with digests.

    Raises:
        ValueError: something that every statement needs is missing.
    """
    from google.protobuf.json_format import MessageToDict
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    named = [ResourceDescriptor(name=name, digest={"sha256": hex_of(digest)}).pb for name, digest in subjects]
    made = Statement(named, predicate_type, dict(predicate))
    made.validate()
    values: dict[str, Any] = MessageToDict(made.pb)
    return values


def sign_statement(values: Mapping[str, Any], signer: Signer) -> bytes:
    """The statement in a signed envelope, as canonical JSON: the same statement gives the same bytes."""
    payload = canonical_json(dict(values))
    signature = {"keyid": signer.public.key_id.hex(), "sig": _b64(signer.sign(pae(PAYLOAD_TYPE, payload)))}
    return canonical_json({"payloadType": PAYLOAD_TYPE, "payload": _b64(payload), "signatures": [signature]})


def open_envelope(data: bytes, verifier: Verifier) -> dict[str, Any]:
    """The statement of an envelope that ``verifier`` signed.

    Raises:
        BadEnvelope: the form is wrong, or no signature by that key holds.
    """
    try:
        envelope = json.loads(data)
        kind, payload = str(envelope["payloadType"]), base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadEnvelope(f"it is no DSSE envelope ({error})") from error
    if not any(verifier.verify(signature, pae(kind, payload)) for signature in signatures):
        raise BadEnvelope(f"it has no signature by {verifier.key_name} that holds")
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadEnvelope(f"it holds no JSON ({error})") from error
    if kind != PAYLOAD_TYPE or not isinstance(values, dict):
        raise BadEnvelope(f"it holds no in-toto statement but {kind[:80]!r}")
    return values


def subjects_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Names with digests that a statement is about; BadEnvelope when it does not say."""
    try:
        return {str(each["name"]): f"sha256:{each['digest']['sha256']}" for each in values["subject"]}
    except (KeyError, TypeError) as error:
        raise BadEnvelope(f"its subjects have no names or digests ({error})") from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
