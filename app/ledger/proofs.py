"""Proofs as files: a leaf stands in the log, or a log only grew; checked with the public key and nothing else.

Purpose: put a proof together from the database in three short queries, write it as canonical JSON, and check one that
came from somewhere. Sources: RFC 9162, sections 2.1.3 and 2.1.4; the checkpoint inside is a C2SP signed note.
Guarantees: ``check`` raises ProofRefused for whatever does not hold, in one sentence; it never raises anything else on
hostile input. Not guaranteed: that the checkpoint inside is the log's newest one.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from app.core.digests import PREFIX, canonical_json
from app.core.errors import SignalboxError
from app.ledger import merkle
from app.ledger.keys import Verifier
from app.ledger.log import LEAF_AT, Ledger, NoSuchLeaf, NotAStatement, Statement, origin_of, positions_of, read_note
from app.ledger.note import BadNote, Checkpoint, read_checkpoint
from app.ledger.tree import TreeReader

MAX_HASHES = 64


class ProofRefused(SignalboxError):
    """A proof does not hold: ask the log for it again, and treat the log as tampered with when it still does not."""


@dataclass(frozen=True)
class InclusionProof:
    """That ``statement`` is leaf ``index`` of the tree that ``checkpoint`` signs."""

    index: int
    statement: Statement
    hashes: tuple[bytes, ...]
    checkpoint: str

    def to_bytes(self) -> bytes:
        """The proof's file: canonical JSON, under 2 kB in a log of a million leaves."""
        return _written(self.to_json())

    def to_json(self) -> dict[str, Any]:
        said = {"kind": "inclusion", "index": self.index, "leaf": self.statement.to_json()}
        return {**said, "hashes": _encoded(self.hashes), "checkpoint": self.checkpoint}

    def check(self, verifier: Verifier) -> Checkpoint:
        """The checkpoint that the log's key signed and this leaf is under; ProofRefused otherwise."""
        signed = _signed(self.checkpoint, verifier)
        leaf = merkle.leaf_hash(self.statement.to_bytes())
        if not merkle.verify_inclusion(leaf, index=self.index, size=signed.size, proof=self.hashes, root=signed.root):
            message = f"the statement is not leaf {self.index} of the {signed.size} that the checkpoint signs"
            raise ProofRefused(f"{message}: leaf, proof or checkpoint was changed")
        return signed


@dataclass(frozen=True)
class ConsistencyProof:
    """That the tree that ``checkpoint`` signs begins with the ``old_size`` leaves of an older checkpoint."""

    old_size: int
    hashes: tuple[bytes, ...]
    checkpoint: str

    def to_bytes(self) -> bytes:
        return _written(self.to_json())

    def to_json(self) -> dict[str, Any]:
        said = {"kind": "consistency", "old_size": self.old_size}
        return {**said, "hashes": _encoded(self.hashes), "checkpoint": self.checkpoint}

    def check(self, verifier: Verifier, *, kept: str) -> Checkpoint:
        """The newer checkpoint, shown to append only to the one that the caller ``kept``; ProofRefused otherwise."""
        old, new = _signed(kept, verifier), _signed(self.checkpoint, verifier)
        grown = merkle.verify_consistency(
            old_size=old.size, new_size=new.size, old_root=old.root, new_root=new.root, proof=self.hashes
        )
        if old.size != self.old_size or not grown:
            message = f"the log of {new.size} leaves does not begin with the {old.size} of the checkpoint kept"
            raise ProofRefused(f"{message}: it was cut back or rewritten, or the proof was changed")
        return new


Proof: TypeAlias = InclusionProof | ConsistencyProof


def prove_inclusion(ledger: Ledger, index: int, *, size: int | None = None) -> InclusionProof:
    """Prove a leaf against the checkpoint of ``size`` leaves, by default the newest one.

    Raises:
        NoSuchLeaf: the log has no such leaf, or signed no checkpoint of that size.
    """
    with ledger.database.read() as connection:
        signed, note = read_note(connection, size)
        if not signed:
            raise NoSuchLeaf("no leaf stands under a checkpoint of no leaves: name a later one, or publish something")
        if not 0 <= index < signed:
            raise NoSuchLeaf(f"no leaf {index} among {signed}: ask for an index from 0 to {signed - 1}")
        data = connection.execute(LEAF_AT, {"at": index}).scalar_one()
        reader = TreeReader(connection, positions_of(merkle.inclusion_spans(index, signed)))
        hashes = merkle.inclusion_proof(index, signed, reader)
    return InclusionProof(index, Statement.from_bytes(data), tuple(hashes), note)


def prove_consistency(ledger: Ledger, old_size: int, *, new_size: int | None = None) -> ConsistencyProof:
    """Prove that the checkpoint of ``new_size`` leaves, by default the newest, appends to the first ``old_size``."""
    with ledger.database.read() as connection:
        signed, note = read_note(connection, new_size)
        if not 0 <= old_size <= signed:
            raise NoSuchLeaf(f"no tree of {old_size} leaves precedes one of {signed}: ask for a smaller size")
        reader = TreeReader(connection, positions_of(merkle.consistency_spans(old_size, signed)))
        hashes = merkle.consistency_proof(old_size, signed, reader)
    return ConsistencyProof(old_size, tuple(hashes), note)


def find_leaf(ledger: Ledger, leaf: str) -> int:
    """The index of a leaf named by its index or by the digest that it is about, the first one there is."""
    if leaf.startswith(PREFIX):
        found = next(ledger.leaves(subject=leaf), None)
        if found is None:
            raise NoSuchLeaf(f"no leaf is about {leaf[:23]}...: give the digest of a version, or a leaf's index")
        return found.index
    if not leaf.isdecimal() or not leaf.isascii():
        raise NoSuchLeaf(f"{leaf[:40]!r} names no leaf: give its index, or a digest that begins with {PREFIX}")
    return int(leaf[:20])


def read_proof(data: bytes | str) -> Proof:
    """The proof of a file; ProofRefused when it is none."""
    try:
        values = json.loads(data)
        hashes = tuple(base64.b64decode(each, validate=True) for each in values["hashes"])
        if len(hashes) > MAX_HASHES:
            raise ValueError("more hashes than any tree has levels")
        return _READERS[values["kind"]](values, hashes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, NotAStatement) as error:
        raise ProofRefused(f"this is not a proof as `signalbox ledger prove` writes it ({error})") from error


def _read_inclusion(values: Mapping[str, Any], hashes: tuple[bytes, ...]) -> Proof:
    statement = Statement.from_bytes(canonical_json(values["leaf"]))
    return InclusionProof(merkle.natural(values["index"]), statement, hashes, _text(values["checkpoint"]))


def _read_consistency(values: Mapping[str, Any], hashes: tuple[bytes, ...]) -> Proof:
    return ConsistencyProof(merkle.natural(values["old_size"]), hashes, _text(values["checkpoint"]))


_READERS: dict[str, Callable[[Mapping[str, Any], tuple[bytes, ...]], Proof]] = {
    "inclusion": _read_inclusion,
    "consistency": _read_consistency,
}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("the checkpoint is not text")
    return value


def _written(values: Mapping[str, Any]) -> bytes:
    """RFC 8785 JSON of text, small numbers and lists under ASCII names, for which Python's own writer is enough."""
    return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _encoded(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]


def _signed(note: str, verifier: Verifier) -> Checkpoint:
    try:
        checkpoint = read_checkpoint(note, [verifier])
    except BadNote as error:
        raise ProofRefused(f"a checkpoint cannot be trusted: {error}") from error
    if checkpoint.origin != origin_of(verifier):
        raise ProofRefused(f"a checkpoint is one of {checkpoint.origin}, not of the log {origin_of(verifier)}")
    return checkpoint
