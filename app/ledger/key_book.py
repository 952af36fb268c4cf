"""What the ledger's key leaves say: which key is on record, for which person, from when, and until when.

A key leaf's subject is the digest of the raw public key, its name the verifier key. Its payload, when there is one,
names a manifest of kind ``key``: the event (``new`` or ``revoke``), the person as a pseudonym, and the reason.

Guarantees: every question is asked for a place in the log, so that what was valid when it was written stays so, and a
revocation is final. Not guaranteed: that a pseudonym stands for the person that the registrar was told.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.ledger.keys import KeyUnreadable, Verifier
from app.ledger.log import KEY, Leaf

NEW, REVOKE = "new", "revoke"
END = sys.maxsize
"""After every leaf."""

ManifestOf = Callable[[str, str], Mapping[str, Any] | None]
"""Manifest by kind and digest; None when it cannot be had."""


@dataclass(frozen=True)
class KeyEvent:
    """One key leaf, read."""

    index: int
    verifier: Verifier
    event: str
    person: str
    reason: str
    actor: str
    time: str


class KeyBook:
    """All key events of a log, oldest first."""

    def __init__(self, events: Iterable[KeyEvent]) -> None:
        self.events = sorted(events, key=lambda event: event.index)

    @classmethod
    def read(cls, leaves: Iterable[Leaf], manifest_of: ManifestOf) -> "KeyBook":
        """The book of some leaves; those that hold no verifier key are passed over."""
        return cls(_read_events(leaves, manifest_of))

    def registered(self, before: int = END) -> Iterator[KeyEvent]:
        """Registrations that stand before a place in the log."""
        return (event for event in self.events if event.event == NEW and event.index < before)

    def revocation(self, digest: str, before: int = END) -> KeyEvent | None:
        """The event that revoked a raw key before a place in the log."""
        found = (each for each in self.events if each.event == REVOKE and each.verifier.digest == digest)
        return next((each for each in found if each.index < before), None)

    def person(self, digest: str, before: int = END) -> str:
        """Pseudonym of a key's person, as first put on record; empty when there is none."""
        own = (each for each in self.registered(before) if each.verifier.digest == digest)
        return next((each.person for each in own if each.person), "")

    def objection(self, verifier: Verifier, before: int = END) -> str | None:
        """Why a signature by this key does not count at a place in the log; None when it does."""
        if not any(each.verifier == verifier for each in self.registered(before)):
            return f"its key {verifier.key_name} is not on record"
        if revoked := self.revocation(verifier.digest, before):
            return f"its key {verifier.key_name} was revoked by leaf {revoked.index} ({revoked.reason})"
        return None

    def approver_objection(self, verifier: Verifier, before: int = END) -> str | None:
        """Why a key may not approve or reject, at a place in the log; None when it may."""
        if verifier.role in ("trainer", "service"):
            return f"the role of its key {verifier.key_name} is {verifier.role}"
        if found := self.trainer_objection(verifier, before) or self.objection(verifier, before):
            return found
        if not self.person(verifier.digest, before):
            return f"its key {verifier.key_name} belongs to no person on record"
        return None

    def trainer_objection(self, verifier: Verifier, before: int = END) -> str | None:
        """How a key or its person is on record as a trainer, at a place in the log; None when neither is."""
        trainers = [each for each in self.registered(before) if each.verifier.role == "trainer"]
        if any(each.verifier.digest == verifier.digest for each in trainers):
            return f"its key {verifier.key_name} is on record as a trainer's too"
        person = self.person(verifier.digest, before)
        if person and person in {each.person for each in trainers}:
            return f"the person of its key {verifier.key_name} holds a trainer's key too"
        return None


def _read_events(leaves: Iterable[Leaf], manifest_of: ManifestOf) -> Iterator[KeyEvent]:
    for leaf in leaves:
        statement = leaf.statement
        if statement.kind != KEY:
            continue
        try:
            verifier = Verifier.parse(statement.name)
        except KeyUnreadable:
            continue
        facts = (manifest_of(KEY, statement.payload) or {}).get("facts", {}) if statement.payload else {}
        event, person, reason = (str(facts.get(name, "")) for name in ("event", "person", "reason"))
        yield KeyEvent(leaf.index, verifier, event or NEW, person, reason, statement.actor, statement.time)
