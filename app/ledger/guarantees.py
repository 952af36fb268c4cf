"""Guarantees of routers as signed statements: what was promised, and that it no longer holds.

A guarantee's leaf is about a router version; its payload names a record whose facts hold ``signed``: the log, the
router, the promise as it stands in the router's ``router.json``, what it is bound to, and the time, under a key on
record. A void's leaf is about the same router and gives the reason; it is final for that version.

Guarantees: pure functions of leaves and records, the same for the gateway, for commands and for ``signalbox verify``; a
router whose guarantee no leaf states has none that stands. Not guaranteed: that the promise was computed from honest
rows; the rows' version stands among the router's parents, and a gate looks at them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.clock import timestamp
from app.ledger.binding import LOG, find_foreign
from app.ledger.decisions import MAX_SKEW_S, read_time
from app.ledger.key_book import END, KeyBook
from app.ledger.keys import Signer, Verifier, facts_signer, sign_facts
from app.ledger.log import GUARANTEE, VOID, Leaf

ROUTER, ROUTER_FILE = "router", "router.json"
PROMISE = ("guarantee", "bound_to")
"""Fields of ``router.json`` that a guarantee's signature covers."""
SIGNERS = {
    GUARANTEE: ("service", "trainer", "approver"),
    VOID: ("service", "trainer", "approver", "reviewer", "auditor"),
}
"""Roles whose keys may sign; to say that a promise no longer holds is everybody's."""


@dataclass(frozen=True)
class Standing:
    """Whether a router's guarantee stands, by the ledger."""

    stated: bool
    void_because: str = ""

    @property
    def objection(self) -> str:
        """Why it does not stand; empty when it does."""
        return self.void_because or ("" if self.stated else "no leaf of the ledger states it")


def standing(leaves: Iterable[Leaf], record_of: Callable[[str, str], Mapping[str, Any]]) -> Standing:
    """How a router's guarantee stands, by the leaves about it; ``record_of`` loads a record by kind and digest."""
    stated, why = False, ""
    for leaf in leaves:
        kind, payload = leaf.statement.kind, leaf.statement.payload
        stated = stated or kind == GUARANTEE
        if kind == VOID and not why:
            why = str(_body(record_of(kind, payload)).get("reason") or "it was voided")
    return Standing(stated, why)


def sign_statement(
    kind: str, router: str, *, name: str, signer: Signer, log_key: str, parents: Iterable[str] = (), **said: Any
) -> dict[str, Any]:
    """The record of a guarantee (``guarantee``, ``bound_to``) or of a void (``reason``), ready for the store."""
    body = {LOG: log_key, "act": kind, "router": router, "parents": list(parents), "time": timestamp(), **said}
    facts = {"actor": signer.public.key_name, "signed": sign_facts(body, signer)}
    return {"kind": kind, "name": name, "inputs": {"subject": router}, "parents": list(parents), "facts": facts}


def find_statement_fault(leaf: Leaf, record: Mapping[str, Any], keys: KeyBook, *, log_key: str) -> str | None:
    """What is wrong with who signed a guarantee or a void; None when nothing is."""
    signed, statement = record.get("facts", {}).get("signed", {}), leaf.statement
    signer = facts_signer(signed)
    if signer is None:
        return "nobody's signature stands behind it"
    body = _body(record)
    if foreign := find_foreign(body, log_key):
        return foreign
    if (body.get("act"), body.get("router"), body.get("parents")) != (
        statement.kind, statement.subject, list(statement.parents),
    ):  # fmt: skip
        return f"{signer.key_name} signed another statement than this leaf makes"
    if statement.actor != signer.key_name:
        return f"it was signed by {signer.key_name}, but names {statement.actor}"
    if statement.kind == VOID and not str(body.get("reason") or "").strip():
        return "it states no reason"
    return signer_objection(statement.kind, signer, keys, leaf.index) or _skew(body, statement.time)


def signer_objection(kind: str, verifier: Verifier, keys: KeyBook, before: int = END) -> str | None:
    """Why a key may not sign such a statement at a place in the log; None when it may."""
    if verifier.role not in SIGNERS[kind]:
        return f"the role of its key is {verifier.role}, a {kind} is signed by {' or '.join(SIGNERS[kind])}"
    return keys.objection(verifier, before)


def find_promise_fault(record: Mapping[str, Any], router: Mapping[str, Any]) -> str | None:
    """How a guarantee's record differs from the router's ``router.json``; None when it does not."""
    body = _body(record)
    other = [name for name in PROMISE if body.get(name) != router.get(name)]
    return f"it states another {' and '.join(other)} than the router's {ROUTER_FILE}" if other else None


def _skew(body: Mapping[str, Any], logged: str) -> str | None:
    try:
        apart_s = abs((read_time(str(body.get("time"))) - read_time(logged)).total_seconds())
    except ValueError:
        return "it states no time"
    said = f"it is back-dated or post-dated: signed at {body['time']}, but logged at {logged}"
    return said if apart_s > MAX_SKEW_S else None


def _body(record: Mapping[str, Any]) -> Mapping[str, Any]:
    signed = record.get("facts", {}).get("signed", {})
    body = signed.get("body") if isinstance(signed, Mapping) else None
    return body if isinstance(body, Mapping) else {}
