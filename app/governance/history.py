"""What was in production at a moment, and the proof of it: for ``signalbox production --at``.

A proof holds every step of one name (promotion, rollback, stop, resume, canary, end of a canary) with its inclusion
proof, and the signed checkpoint that all of them lead to. In force is the last move that is not later than the moment;
a canary runs beside it where it is the last step of all until then.
Guarantees: ``check`` needs the log's public key and nothing else; it names each leaf, proof or signature that does not
hold, and a move that is left out between two others, since each names what was there before.
Not guaranteed by a proof alone: that no last move of the name was left out, and that times are right. Both rest on the
whole log up to the checkpoint: ``signalbox verify`` reads all of it, and names a move leaf out of the order of time.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.core.clock import rfc3339, utc_now
from app.core.digests import canonical_json, digest_bytes
from app.core.errors import UsageError
from app.ledger import merkle
from app.ledger.keys import Verifier
from app.ledger.log import MOVES, STEPS, STOP, Leaf, NotAStatement, Statement
from app.ledger.moves import running_canary
from app.ledger.note import BadNote, Checkpoint, read_checkpoint
from app.ledger.verify_lineage import TIME, is_back_dated
from app.registry.versions import Registry, VersionNotFound

RESTS_ON = (
    "These are all moves of {name} among the {size} leaves under the checkpoint. That none was left out rests on the "
    "whole log up to it: `signalbox verify` recomputes it from every leaf, and the same checkpoint in a witness's "
    "hands shows that no other log was given to others."
)

STOPPED = "stopped, its models out of service"


class BadMoment(UsageError):
    """A moment is an RFC 3339 time, such as 2026-11-22T21:00:00Z, that is not in the future."""


def parse_moment(text: str) -> tuple[datetime, bool]:
    """A moment and whether its zone was named; one without a zone is read as UTC.

    Raises:
        BadMoment: it is no time, or it is still to come.
    """
    try:
        moment = datetime.fromisoformat(text)
        moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadMoment(f"{text!r} is no RFC 3339 time: write it as 2026-11-22T21:00:00Z") from error
    zoned = moment.tzinfo is not None
    moment = moment if zoned else moment.replace(tzinfo=UTC)
    if moment > utc_now():
        raise BadMoment(f"{text} is still to come: name a moment that has passed, or leave --at out")
    return moment, zoned


def production_at(registry: Registry, moment: datetime, *, name: str, kind: str = "release") -> dict[str, Any]:
    """What was in production under a name at a moment, with the proof, as JSON values."""
    ledger = registry.ledger
    note = ledger.checkpoint()
    size = read_checkpoint(note, [ledger.signer.public]).size
    target = f"{kind}/{name}"
    leaves = sorted((leaf for each in STEPS for leaf in ledger.leaves(each)), key=lambda leaf: leaf.index)
    moves = [leaf for leaf in leaves if leaf.statement.name == target and leaf.index < size]
    force = in_force([leaf.statement for leaf in moves], moment)
    beside = canary_at(moves, moment)
    stated = {"name": target, "at": rfc3339(moment), **_state(moves[force] if force is not None else None)}
    stated |= {"canary": beside, "canary_ref": _ref(registry, kind, beside)}
    proofs = [_proven(registry, leaf, size) for leaf in moves]
    key = {
        "checkpoint": note,
        "log_key": ledger.signer.public.vkey,
        "rests_on": RESTS_ON.format(name=target, size=size),
    }
    return {**stated, "ref": _ref(registry, kind, stated["digest"]), "in_force": force, "moves": proofs, **key}


def in_force(moves: Sequence[Statement], moment: datetime) -> int | None:
    """Which of the steps, in the order of the log, decides at a moment what is in production; None before the first."""
    at = rfc3339(moment)
    decides = (number for number, move in enumerate(moves) if move.time <= at and move.kind in MOVES)
    return max(decides, default=None)


def canary_at(steps: Sequence[Leaf], moment: datetime) -> str | None:
    """Digest of the canary that ran at a moment."""
    leaf = running_canary(step for step in steps if step.statement.time <= rfc3339(moment))
    return leaf.statement.subject if leaf else None


def check(proof: Mapping[str, Any], verifier: Verifier) -> list[str]:
    """Everything about a proof that does not hold, a sentence each; nothing when it is whole.

    Args:
        proof: what ``production_at`` gave, through JSON.
        verifier: the log's public key, from a source that the proof's giver does not control.
    """
    try:
        checkpoint = read_checkpoint(str(proof["checkpoint"]), [verifier])
        moves = [_read(move) for move in proof["moves"]]
        moment, _ = parse_moment(str(proof["at"]))
        stated = {key: proof[key] for key in ("name", "state", "digest", "in_force")}
        stated["canary"] = proof.get("canary")
    except (BadMoment, BadNote, NotAStatement, LookupError, TypeError, ValueError, RecursionError) as error:
        return [f"the proof cannot be read ({error}): ask for it again"]
    found = [fault for move in moves for fault in _check_move(move, str(stated["name"]), checkpoint)]
    force = in_force([move.leaf.statement for move in moves], moment)
    true = {"in_force": force, **_state(moves[force].leaf if force is not None else None)}
    true["canary"] = canary_at([move.leaf for move in moves], moment)
    found += [
        f"it says {key} {stated[key]!r}, its leaves say {true[key]!r}" for key in true if stated[key] != true[key]
    ]
    return found + _check_chain(moves)


def rests_on(proof: Mapping[str, Any]) -> str:
    """What a proof that holds leaves open, in our words and not its giver's."""
    size = Checkpoint.from_text(str(proof["checkpoint"])).size
    return RESTS_ON.format(name=proof["name"], size=size)


@dataclass(frozen=True)
class _Move:
    """A move as a proof states it."""

    leaf: Leaf
    proof: list[bytes]
    record_digest: str
    """Empty when the proof holds no record."""
    previous: Any
    """Digest of what was there before, as its record says."""


def _state(leaf: Leaf | None) -> dict[str, Any]:
    if leaf is None:
        return {"state": "nothing was in production", "digest": None}
    state = STOPPED if leaf.statement.kind == STOP else "in production"
    return {"state": state, "digest": leaf.statement.subject}


def _proven(registry: Registry, leaf: Leaf, size: int) -> dict[str, Any]:
    """A move leaf, the record that it names, and the proof that it stands in the log."""
    statement = leaf.statement
    proof = [base64.b64encode(value).decode() for value in registry.ledger.inclusion_proof(leaf.index, size)]
    record = registry.store.manifest(statement.kind, statement.payload) if statement.payload else {}
    return {"index": leaf.index, "leaf": statement.to_bytes().decode(), "record": record, "proof": proof}


def _ref(registry: Registry, kind: str, digest: str | None) -> str | None:
    try:
        return registry.get(kind, digest).ref if digest else None
    except VersionNotFound:
        return None


def _read(move: Mapping[str, Any]) -> _Move:
    """A move of a proof; ValueError, LookupError, TypeError or NotAStatement when it has not its form."""
    statement, record = Statement.from_bytes(str(move["leaf"]).encode()), move["record"]
    if not TIME.fullmatch(str(statement.time)) or not isinstance(record, dict):
        raise ValueError("a move has no time or no record")
    proof = [base64.b64decode(value, validate=True) for value in move["proof"]]
    digest = digest_bytes(canonical_json(record)) if record else ""
    previous = record["inputs"]["previous"] if record else None
    return _Move(Leaf(merkle.natural(move["index"]), statement), proof, digest, previous)


def _check_move(move: _Move, name: str, checkpoint: Checkpoint) -> list[str]:
    leaf, statement, where = move.leaf, move.leaf.statement, f"leaf {move.leaf.index}"
    hashed, size, root = merkle.leaf_hash(statement.to_bytes()), checkpoint.size, checkpoint.root
    found = []
    if not merkle.verify_inclusion(hashed, index=leaf.index, size=size, proof=move.proof, root=root):
        found.append(f"{where}: its proof does not lead to the checkpoint's root")
    if statement.kind not in STEPS or statement.name != name:
        found.append(f"{where}: it is no move of {name}")
    if move.record_digest != statement.payload:
        found.append(f"{where}: its record is not the one that it names")
    return found


def _check_chain(moves: Sequence[_Move]) -> list[str]:
    """Leaves stand in the order of the log and of time, and each move's record names what the one before put there."""
    found: list[str] = []
    last: Leaf | None = None
    placed: str | None = None
    for move in moves:
        leaf, where = move.leaf, f"leaf {move.leaf.index}"
        if last and (leaf.index <= last.index or is_back_dated(leaf.statement.time, after=last.statement.time)):
            found.append(f"{where}: it stands out of the order of the log or of time")
        if move.record_digest and move.previous != placed:
            said = f"its record says that {move.previous} was there before"
            found.append(f"{where}: {said}; a move is missing or was changed")
        last, placed = leaf, leaf.statement.subject if leaf.statement.kind in MOVES else placed
    return found
