"""Moves of production: who may make one, and whether a move leaf is what somebody signed.

A move's payload names a record whose facts hold ``signed``: the log, the move, what it moves where from, its parents,
its reason and time, under the key that made it.
Guarantees: pure functions, the same for promotion and for verification.
Not guaranteed: that the service's key was used by its owner; whoever holds the server holds that key, which is why a
promotion needs approvals by other keys.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.ledger.binding import find_foreign
from app.ledger.decisions import MAX_SKEW_S, read_time
from app.ledger.key_book import END, KeyBook
from app.ledger.keys import Verifier, facts_signer
from app.ledger.log import PROMOTION, RESUME, ROLLBACK, STOP, Leaf

MOVERS = {
    PROMOTION: ("service", "approver"),
    ROLLBACK: ("service", "approver"),
    RESUME: ("service", "approver"),
    STOP: ("service", "approver", "reviewer", "auditor", "trainer"),
}
"""Roles whose keys may make a move; the emergency brake is everybody's."""


def may_move(kind: str, verifier: Verifier, keys: KeyBook, before: int = END) -> str | None:
    """Why a key may not make a move at a place in the log; None when it may."""
    if verifier.role not in MOVERS[kind]:
        return f"its role is {verifier.role}, a {kind} is made by {' or '.join(MOVERS[kind])}"
    return keys.objection(verifier, before)


def models_of(manifest: Mapping[str, Any]) -> list[str]:
    """Digests of the models of a release, the one that its verdict is about first; none of anything else."""
    facts = manifest.get("facts", {}) if manifest.get("kind") == "release" else {}
    named = facts.get("further")
    further = [
        each[1] for each in (named if isinstance(named, list) else ()) if isinstance(each, list) and len(each) == 2
    ]
    return [str(digest) for digest in (facts.get("small"), facts.get("large"), *further) if digest]


def may_be_judged(manifest: Mapping[str, Any], digest: str) -> list[str]:
    """What the verdict of a promotion may be about: itself, or a release's model; without models, index or dataset."""
    if manifest.get("kind") != "release":
        return [digest]
    parts = models_of(manifest)[:1] or [str(manifest["facts"].get(part)) for part in ("index", "dataset")]
    return [digest, *parts]


def find_move_faults(leaf: Leaf, manifest: Mapping[str, Any], keys: KeyBook, *, log_key: str) -> Iterator[str]:
    """What is wrong with a move's signature in the log of a verifier key, apart from verdict and approvals."""
    statement, facts = leaf.statement, manifest.get("facts", {})
    signed = facts.get("signed", {})
    signer = facts_signer(signed)
    if signer is None:
        yield "nobody's signature stands behind it: it was not made by promote, rollback, stop or resume"
        return
    body = signed["body"]
    if foreign := find_foreign(body, log_key):
        yield foreign
    said = (body.get("move"), body.get("name"), body.get("subject"), body.get("parents"))
    if said != (statement.kind, statement.name, statement.subject, list(statement.parents)):
        yield f"{signer.key_name} signed another move than this leaf makes"
    if not statement.actor == facts.get("actor") == signer.key_name:
        yield f"it was signed by {signer.key_name}, but names {statement.actor} as who made it"
    if facts.get("reason") != body.get("reason"):
        yield "its record gives another reason than the one signed"
    if manifest.get("inputs", {}).get("previous") != body.get("previous"):
        yield "its record names another predecessor than the one signed"
    if statement.kind == PROMOTION:
        named = [facts.get(name) for name in ("verdict", "policy", "traffic") if name != "traffic" or name in facts]
        named += facts.get("approvals") or ()
        if named != list(statement.parents):
            yield "its record names another verdict, policy or approvals than its leaf"
    if not str(body.get("reason", "")).strip():
        yield "it states no reason"
    if objection := may_move(statement.kind, signer, keys, leaf.index):
        yield f"it is not valid, as {objection}"
    try:
        apart_s = abs((read_time(str(body.get("time"))) - read_time(statement.time)).total_seconds())
    except ValueError:
        yield "it states no time"
        return
    if apart_s > MAX_SKEW_S:
        yield f"it is back-dated or post-dated: signed at {body['time']}, but logged at {statement.time}"
