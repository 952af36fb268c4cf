"""Receipts: which request was answered with what, by which release and when, as one leaf of a batch's Merkle tree.

A receipt is canonical JSON of ``request_id``, ``time``, ``release`` and three commitments: to the request, to the
response, and to the other columns of the request log (``record``). A commitment is SHA-256(salt || bytes); the three
salts of a row derive from one random one, which only the row holds. Who erases the row erases the salt with it, and
then nobody can tell what the receipt was about.

Request and response are committed to as RFC 8785 JSON; the response is the whole one, of a stream the one that its
chunks spell. A value that RFC 8785 refuses (half a surrogate pair, an integer beyond 2**53, a NaN) is
committed to as Python writes it with sorted keys and ASCII escapes.

Guarantees: making a receipt reads and writes nothing; checking one needs the proof and the log's public key.
Not guaranteed: that a receipt given to a client reaches the ledger when its replica is killed within the log's flush
time; the client's header is then the evidence that it did not.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

import rfc8785

from app.core.digests import PREFIX, canonical_json
from app.core.errors import UsageError
from app.ledger import merkle
from app.ledger.keys import Verifier
from app.ledger.log import REQUEST_BATCH, NotAStatement, Statement, origin_of
from app.ledger.note import BadNote, read_checkpoint

HEADER = "x-signalbox-receipt"
SALT_BYTES = 32
REQUEST, RESPONSE, RECORD = "request", "response", "record"


class ReceiptUnreadable(UsageError):
    """A file or header is no receipt of Signalbox: fetch it again from /v1/receipts/{id}."""


def canonical_text(value: object) -> str:
    """A JSON value as receipts commit to it; a text that JSON cannot hold is escaped, never an error."""
    try:
        return canonical_json(value).decode()
    except rfc8785.CanonicalizationError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


def new_salt() -> bytes:
    """The secret of one row."""
    return os.urandom(SALT_BYTES)


def salt_of(salt: bytes, part: str) -> bytes:
    """The salt of one commitment (``REQUEST``, ``RESPONSE`` or ``RECORD``), so that one can be opened alone."""
    return hashlib.sha256(salt + part.encode()).digest()


def commit(salt: bytes, data: bytes) -> str:
    """The commitment to some bytes under their salt."""
    return PREFIX + hashlib.sha256(salt + data).hexdigest()


def receipt_leaf(
    *, request_id: str, time: str, release: str | None, salt: bytes, request: bytes, response: bytes, record: bytes
) -> str:
    """The receipt of a row: RFC 8785 JSON, spelled out since thousands are made in a second.

    Args:
        time: RFC 3339, when the request came in.
        salt: of the row; the three salts are derived here.
    """
    commitments = [
        commit(salt_of(salt, part), data) for part, data in ((RECORD, record), (REQUEST, request), (RESPONSE, response))
    ]
    return (
        f'{{"record":"{commitments[0]}","release":{_text(release)},"request":"{commitments[1]}",'
        f'"request_id":{_text(request_id)},"response":"{commitments[2]}","time":"{time}"}}'
    )


def header_of(leaf: str, salt: bytes) -> str:
    """What a client keeps: request id, hash of the receipt and the salts of request and response; about 350 bytes."""
    value = {
        "id": json.loads(leaf)["request_id"],
        "leaf": _encode(merkle.leaf_hash(leaf.encode())),
        **{part: _encode(salt_of(salt, part)) for part in (REQUEST, RESPONSE)},
    }
    return _encode(canonical_json(value))


def read_header(value: str) -> dict[str, str]:
    """The header's ``id``, ``leaf``, ``request`` and ``response``.

    Raises:
        ReceiptUnreadable: it is not what :func:`header_of` wrote.
    """
    try:
        found = json.loads(_decode(value.strip()))
        if set(found) == {"id", "leaf", REQUEST, RESPONSE} and all(isinstance(each, str) for each in found.values()):
            return dict(found)
    except (ValueError, TypeError, RecursionError) as error:
        raise ReceiptUnreadable(f"the header {HEADER} is damaged ({error}): copy it whole") from error
    raise ReceiptUnreadable(f"the header {HEADER} lacks fields: copy it whole")


def proof_of(
    leaf: str, *, leaves: Sequence[str], batch: Statement, index: int, proof: Sequence[bytes], checkpoint: str
) -> dict[str, Any]:
    """Everything that shows a receipt to stand in a log: what ``/v1/receipts/{id}`` gives and ``check`` reads.

    Args:
        leaves: receipts of the batch, in order; ``leaf`` is one of them.
        index: of the batch's statement in the ledger.
        proof: from that statement to the root that ``checkpoint`` signs.
    """
    place, size = leaves.index(leaf), len(leaves)
    hashes = [merkle.leaf_hash(each.encode()) for each in leaves]
    within = [merkle.root_of(hashes[start:end]) for start, end in merkle.inclusion_spans(place, size)]
    return {
        "receipt": json.loads(leaf),
        "batch": {"index": place, "size": size, "proof": [each.hex() for each in within]},
        "ledger": {
            "index": index,
            "leaf": batch.to_bytes().decode(),
            "proof": [each.hex() for each in proof],
            "checkpoint": checkpoint,
        },
    }


@dataclass(frozen=True)
class Checked:
    """What a receipt proves, or every reason why it does not."""

    receipt: Mapping[str, Any]
    proven: Sequence[str]
    faults: Sequence[str]


def check_receipt(
    proof: Mapping[str, Any],
    *,
    verifier: Verifier,
    header: str | None = None,
    request: object = None,
    response: object = None,
) -> Checked:
    """Check a receipt's proof with the log's public key alone; no database, no network.

    Args:
        header: the response's header; needed to open ``request`` and ``response``, JSON values that are compared with
            the receipt's commitments.

    Raises:
        ReceiptUnreadable: ``proof`` or ``header`` is not of the form.
    """
    try:
        receipt, faults = dict(proof["receipt"]), [*_batch_faults(proof), *_ledger_faults(proof["ledger"], verifier)]
        opened = _opened(receipt, read_header(header) if header else {}, {REQUEST: request, RESPONSE: response})
        index, size = proof["ledger"]["index"], proof["batch"]["size"]
        place = f"receipt {proof['batch']['index']} of {size} in leaf {index} of log {origin_of(verifier)}"
        said = f"request {receipt['request_id']} was answered by {receipt['release']} at {receipt['time']}"
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ReceiptUnreadable(f"this is no proof of a receipt ({type(error).__name__}: {error})") from error
    faults += [message for message, good in opened if not good]
    good = [message for message, good in opened if good]
    return Checked(receipt, [] if faults else [said, place, *good], faults)


def _batch_faults(proof: Mapping[str, Any]) -> list[str]:
    """Receipt -> root of its batch, which the ledger's leaf names."""
    batch, leaf = proof["batch"], json.loads(proof["ledger"]["leaf"])
    good = leaf["kind"] == REQUEST_BATCH and merkle.verify_inclusion(
        merkle.leaf_hash(canonical_json(proof["receipt"])),
        index=merkle.natural(batch["index"]),
        size=merkle.natural(batch["size"]),
        proof=[bytes.fromhex(each) for each in batch["proof"]],
        root=bytes.fromhex(leaf["subject"].removeprefix(PREFIX)),
    )
    return [] if good else ["the receipt is not in the batch that the ledger's leaf names: it was changed or forged"]


def _ledger_faults(ledger: Mapping[str, Any], verifier: Verifier) -> list[str]:
    """The batch's leaf -> root of the checkpoint, which the log's key signed."""
    data = ledger["leaf"].encode()
    try:
        Statement.from_bytes(data)
        checkpoint = read_checkpoint(ledger["checkpoint"], [verifier])
    except (BadNote, NotAStatement) as error:
        return [f"the checkpoint or the leaf cannot be trusted: {error}"]
    if checkpoint.origin != origin_of(verifier):
        return [f"the checkpoint is one of {checkpoint.origin}, not of the log {origin_of(verifier)}"]
    path = [bytes.fromhex(each) for each in ledger["proof"]]
    index, size = merkle.natural(ledger["index"]), checkpoint.size
    if merkle.verify_inclusion(merkle.leaf_hash(data), index=index, size=size, proof=path, root=checkpoint.root):
        return []
    return [f"the batch's leaf is not leaf {index} of the {size} that the checkpoint signs: it was changed or forged"]


def _opened(
    receipt: Mapping[str, Any], header: Mapping[str, str], given: Mapping[str, object]
) -> list[tuple[str, bool]]:
    """Sentences about header, request and response, each with whether it holds."""
    found = []
    if header:
        same = header["leaf"] == _encode(merkle.leaf_hash(canonical_json(receipt)))
        message = "the receipt is the one that came with the answer" if same else "the header is of another receipt"
        found.append((message, same))
    for part, value in given.items():
        if value is None:
            continue
        if not header:
            raise ReceiptUnreadable(f"without the header {HEADER} the {part} cannot be opened: give --header")
        same = commit(_decode(header[part]), canonical_text(value).encode()) == receipt[part]
        found.append((f"the {part} is {'the' if same else 'not the'} one that the receipt commits to", same))
    return found


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
