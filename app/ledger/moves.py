"""Moves of production, canaries among them: who may make one, and whether its leaf is what somebody signed.

A move's payload names a record whose facts hold ``signed``: the log, the move, what it moves where from, its parents,
its reason and time, under the key that made it; of a canary also its share and the digests of API keys. ``after`` is
the last leaf by which it was judged: the move counts only where nothing decisive lies between, so that it cannot be
appended a second time, nor later. Moves of older logs say no ``after``: of these one signed body counts once.
Guarantees: pure functions, the same for promotion and for verification.
Not guaranteed: that the service's key was used by its owner; whoever holds the server holds that key, which is why a
promotion needs approvals by other keys.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.ledger.binding import find_foreign
from app.ledger.decisions import DECISIONS, MAX_SKEW_S, read_time
from app.ledger.key_book import END, KeyBook
from app.ledger.keys import Verifier, facts_signer
from app.ledger.log import CANARY, CANARY_END, KEY, PROMOTION, RESUME, ROLLBACK, STEPS, STOP, Leaf

MOVERS = {
    PROMOTION: ("service", "approver"),
    ROLLBACK: ("service", "approver"),
    RESUME: ("service", "approver"),
    STOP: ("service", "approver", "reviewer", "auditor", "trainer"),
    CANARY: ("service", "approver"),
    CANARY_END: ("service", "approver", "reviewer", "auditor", "trainer"),
}
"""Roles whose keys may make a move; the emergency brake, and the end of a canary, are everybody's."""
AFTER = "after"
"""The field of a signed body with the index of the last decisive leaf that its signer had seen; -1 for none."""
DECISIVE = (KEY, *DECISIONS, *STEPS)
"""Kinds of leaves that can change whether a move may be made."""
JUDGED = (PROMOTION, CANARY)
"""Moves that bring a release traffic that it did not have: they name verdict, policy and approvals."""
MAX_CALLERS = 1000


@dataclass(frozen=True)
class Audience:
    """Whose requests a canary answers: a share of all, and all of some API keys, by their digests."""

    share: float = 0.0
    callers: tuple[str, ...] = ()

    @property
    def objection(self) -> str:
        """Why this is nobody's audience; empty where it is somebody's."""
        if type(self.share) not in (int, float) or not 0 <= self.share <= 1:
            return f"a canary's share lies between 0 and 1, not at {self.share}"
        if len(self.callers) > MAX_CALLERS or not all(isinstance(each, str) for each in self.callers):
            return f"a canary is for at most {MAX_CALLERS} API keys, each by its digest"
        return "" if self.share or self.callers else "a canary is for a share above 0, or for API keys"

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Audience":
        """What a signed body says; one that says anything else has an objection."""
        callers = body.get("callers")
        return cls(body.get("share", -1.0), tuple(callers) if isinstance(callers, list) else (None,))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """As the signed body has it."""
        return {"share": self.share, "callers": list(self.callers)}


def may_move(kind: str, verifier: Verifier, keys: KeyBook, before: int = END) -> str | None:
    """Why a key may not make a move at a place in the log; None when it may."""
    if verifier.role not in MOVERS[kind]:
        return f"its role is {verifier.role}, a {kind} is made by {' or '.join(MOVERS[kind])}"
    return keys.objection(verifier, before)


def running_canary(steps: Iterable[Leaf]) -> Leaf | None:
    """The canary that runs after the steps of one name, in the order of the log: every later step ends it."""
    last = list(steps)[-1:]
    return last[0] if last and last[0].statement.kind == CANARY else None


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
        yield "nobody's signature stands behind it: it was not made by promote, rollback, stop, resume or canary"
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
    if statement.kind == CANARY and (nobody := Audience.of(body).objection):
        yield nobody
    if statement.kind in JUDGED:
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
