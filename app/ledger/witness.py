"""Witnesses: strangers who saw that the log only grew, and signed its checkpoint with the time at which they saw it.

Sources: https://c2sp.org/tlog-cosignature (``cosignature/v1``, key type 0x04), https://c2sp.org/tlog-witness.
Trusted witnesses are leaves of kind ``witness`` (subject: digest of the raw key, name: the verifier key): the set
cannot be changed unseen, and travels with every export. Whoever brings a witness's key along need not trust even that.
Guarantees: a cosignature is stored only when it holds over a checkpoint that this log has; ``check_cosignatures`` names
every stored one that does not. Not guaranteed: that a witness told the truth about the time.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, insert, select

from app.core.digests import digest_bytes
from app.core.errors import SignalboxError, UsageError
from app.core.files import read_text, replace_text
from app.core.schema import checkpoints, cosignatures
from app.ledger.faults import Report
from app.ledger.keys import Verifier
from app.ledger.log import WITNESS, Ledger, Statement
from app.ledger.note import SIGNATURE_LINE, BadNote, Checkpoint, decode_base64, read_checkpoint, split_note
from app.ledger.proofs import ConsistencyProof, read_proof

COSIGNATURE = b"\x04"
NAME = re.compile(r"[^\s+]{1,200}")
MAX_TIME_S = 2**63 - 1


class BadWitness(UsageError):
    """A witness's verifier key cannot be used: fetch `name+id+base64` from the witness again."""


class CosignatureRefused(SignalboxError):
    """A cosignature was not taken: it is by no trusted witness, over another checkpoint, or does not hold."""


@dataclass(frozen=True)
class Witness:
    """The public half of a witness's key, under the name that its signature lines carry."""

    name: str
    raw: bytes

    @property
    def key_id(self) -> bytes:
        """First four bytes of SHA-256(name || LF || 0x04 || public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + COSIGNATURE + self.raw).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(COSIGNATURE + self.raw).decode()}"

    @property
    def digest(self) -> str:
        return digest_bytes(self.raw)

    def time_of(self, signature: bytes, text: str) -> int | None:
        """When, in seconds since 1970, this witness signed a note's text; None when it did not."""
        time_s = int.from_bytes(signature[:8], "big")
        if len(signature) != 72 or time_s > MAX_TIME_S:
            return None
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature[8:], _message(text, time_s))
        except InvalidSignature:
            return None
        return time_s

    @classmethod
    def parse(cls, vkey: str) -> "Witness":
        """Read a verifier key of type 0x04; BadWitness when its parts do not belong together."""
        try:
            name, key_id, encoded = vkey.strip().split("+", 2)
            body = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error) as error:
            raise BadWitness(f"not a witness's verifier key: {vkey[:80]!r}; expected name+id+base64") from error
        witness = cls(name=name, raw=body[1:])
        if body[:1] != COSIGNATURE or len(body) != 33 or not NAME.fullmatch(name) or witness.key_id.hex() != key_id:
            raise BadWitness(f"the verifier key of {name!r} is no cosigning key, or damaged: fetch it again")
        return witness


def cosign(note: str, *, name: str, private: Ed25519PrivateKey, time_s: int) -> str:
    """The signature line of a witness that saw this note's checkpoint; it must have checked consistency before."""
    text = split_note(note)[0]
    witness = Witness(name, private.public_key().public_bytes_raw())
    signature = time_s.to_bytes(8, "big") + private.sign(_message(text, time_s))
    return f"\u2014 {name} {base64.b64encode(witness.key_id + signature).decode()}\n"


def register_witness(ledger: Ledger, witness: Witness) -> bool:
    """Trust a witness from now on, by a leaf; False when it was trusted already."""
    if witness in witnesses(ledger):
        return False
    ledger.append([Statement(kind=WITNESS, subject=witness.digest, name=witness.vkey, actor=ledger.signer.name)])
    return True


def witnesses(ledger: Ledger) -> list[Witness]:
    """Every trusted witness, in the order of their leaves."""
    return list(trusted_in(leaf.statement for leaf in ledger.leaves(WITNESS)))


def trusted_in(log: Iterable[Statement]) -> Iterator[Witness]:
    """The witnesses that statements name; what names none properly is left out, and verification says so."""
    for statement in log:
        if statement.kind == WITNESS:
            with suppress(BadWitness):
                yield Witness.parse(statement.name)


def witness_checkpoint(
    note: str,
    *,
    verifier: Verifier,
    seen: Path,
    proof: str | None,
    name: str,
    private: Ed25519PrivateKey,
    time_s: int,
) -> str:
    """A witness's part: its signature line over a checkpoint that grew from the one it signed last.

    Args:
        seen: file of the checkpoint signed last, none at first; replaced before the line is given out. One process at
            a time may use it.
        proof: the proof of growth, as ``signalbox ledger prove-growth`` writes it; not needed at first.

    Raises:
        CosignatureRefused: the log did not show that it only grew.
        ProofRefused: the proof does not hold.
    """
    try:
        new = read_checkpoint(note, [verifier])
        kept = read_text(seen) if seen.exists() else None
        old = read_checkpoint(kept, [verifier]) if kept else None
    except BadNote as error:
        raise CosignatureRefused(f"a checkpoint cannot be trusted: {error}") from error
    if kept and old != new:
        _check_growth(kept, new, proof, verifier)
    replace_text(seen, note)
    return cosign(note, name=name, private=private, time_s=time_s)


def _check_growth(kept: str, new: Checkpoint, proof: str | None, verifier: Verifier) -> None:
    given = read_proof(proof) if proof else None
    if not isinstance(given, ConsistencyProof):
        message = "the checkpoint is not the one signed last: bring the log's proof of growth between the two"
        raise CosignatureRefused(message)
    if given.check(verifier, kept=kept) != new:
        raise CosignatureRefused("the proof of growth is about another checkpoint: ask the log for one about this one")


def add_cosignatures(ledger: Ledger, note: str) -> list[Witness]:
    """Store the cosignatures of trusted witnesses in a note that came back from one; lines of others are ignored.

    Raises:
        CosignatureRefused: the checkpoint is not one of this log's, a trusted witness's line does not hold, or no
            trusted witness signed.
    """
    checkpoint = _own_checkpoint(ledger, note)
    text, lines = split_note(note)
    signed = lines_by(witnesses(ledger), lines)
    for witness, line in signed:
        if witness.time_of(_signature(line), text) is None:
            raise CosignatureRefused(f"the cosignature by {witness.name} does not hold: ask the witness again")
    if not signed:
        raise CosignatureRefused("no trusted witness signed this note: add its key with `signalbox ledger witness add`")
    newest = dict(signed)
    with ledger.database.write() as connection:
        _store(connection, checkpoint.size, newest)
    return list(newest)


def lines_by(trusted: Iterable[Witness], lines: Sequence[str]) -> list[tuple[Witness, str]]:
    """Which signature lines claim to be by which witness; each line with its newline."""
    known = {(each.name, each.key_id): each for each in trusted}
    return [(known[name, key_id], line) for name, key_id, line in _parsed(lines) if (name, key_id) in known]


def check_cosignatures(
    stored: Iterable[tuple[int, str, str]],
    notes: Mapping[int, str],
    trusted: Sequence[Witness],
    report: Report,
) -> dict[str, int]:
    """Check stored cosignatures against the log's notes by size; the largest size that each witness saw comes back.

    Args:
        stored: size, digest of the witness's key, signature line.
    """
    known = {each.digest: each for each in trusted}
    seen: dict[str, int] = {}
    for size, digest, line in stored:
        witness = known.get(digest)
        where = f"cosignature by {witness.name if witness else digest[:19]} of {size} leaves"
        if witness is None:
            report.add("bad-cosignature", where, "no leaf names this witness as trusted: the line was put there")
        elif size not in notes:
            report.add("bad-cosignature", where, "the log has no checkpoint of that size: it was cut or rewritten")
        elif _by(witness, line, notes[size]):
            seen[digest] = max(size, seen.get(digest, 0))
        else:
            report.add("bad-cosignature", where, "it does not hold over the checkpoint that stands there now")
    return seen


def read_cosignatures(connection: Connection) -> list[tuple[int, str, str]]:
    """Every stored line, as ``check_cosignatures`` wants them."""
    query = select(cosignatures.c.size, cosignatures.c.witness, cosignatures.c.line)
    return [(size, digest, line) for size, digest, line in connection.execute(query.order_by(cosignatures.c.size))]


def _own_checkpoint(ledger: Ledger, note: str) -> Checkpoint:
    try:
        checkpoint = read_checkpoint(note, [ledger.signer.public])
    except BadNote as error:
        raise CosignatureRefused(f"this is no checkpoint of this log: {error}") from error
    with ledger.database.read() as connection:
        own = connection.execute(select(checkpoints.c.note).where(checkpoints.c.size == checkpoint.size)).scalar()
    if own is None or split_note(own)[0] != split_note(note)[0]:
        raise CosignatureRefused(f"the log's checkpoint of {checkpoint.size} leaves is another one: send its own")
    return checkpoint


def _store(connection: Connection, size: int, signed: Mapping[Witness, str]) -> None:
    for witness, line in signed.items():
        row = {"size": size, "witness": witness.digest, "line": line}
        this = (cosignatures.c.size == size, cosignatures.c.witness == witness.digest)
        connection.execute(cosignatures.delete().where(*this))
        connection.execute(insert(cosignatures).values(row))


def _parsed(lines: Sequence[str]) -> Iterable[tuple[str, bytes, str]]:
    """Key name and key id of every well-formed signature line, with the line."""
    for line in lines:
        match = SIGNATURE_LINE.fullmatch(line)
        body = decode_base64(match[2]) if match else None
        if match and body:
            yield match[1], body[:4], line + "\n"


def _signature(line: str) -> bytes:
    match = SIGNATURE_LINE.fullmatch(line.removesuffix("\n"))
    return (decode_base64(match[2]) or b"")[4:] if match else b""


def _by(witness: Witness, line: str, note: str) -> bool:
    """Whether a line is this witness's signature over the text of a note, whatever form the note is in."""
    try:
        text = split_note(note)[0]
    except BadNote:
        return False
    return bool(lines_by([witness], [line.removesuffix("\n")])) and witness.time_of(_signature(line), text) is not None


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()
