"""Approvals, rejections and withdrawals: what persons signed about a release, and which of it counts when.

A decision is a version of one of three kinds whose facts hold ``signed``: a body, the signer's verifier key and an
Ed25519 signature over the body's RFC 8785 JSON. The body states artifact, verdict, printed name, meaning and time, as
21 CFR Part 11, 11.50 asks, and the log that it is for (``app.ledger.binding``).

Rules. A decision counts when its signature holds and is for this log, its key was on record and not revoked when its
leaf was appended, neither key nor person trains, its verdict stands before it, and the time signed fits the leaf's. An
approval counts until it expires or its person withdraws it; a rejection blocks until its person withdraws it: nobody is
outvoted.
Guarantees: pure functions of leaves and manifests, so that promotion, ``signalbox verify`` and a stranger with a pack
judge alike. Not guaranteed: that a server which holds the log's key and lies about all times at once is found out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from app.ledger.binding import LOG, find_foreign
from app.ledger.key_book import END, KeyBook, ManifestOf
from app.ledger.keys import Verifier, facts_signer
from app.ledger.log import Leaf

APPROVAL, REJECTION, WITHDRAWAL = "approval", "rejection", "withdrawal"
DECISIONS = (APPROVAL, REJECTION, WITHDRAWAL)
MAX_SKEW_S = 300.0
"""Most that the time in a signature may lie from its leaf's: clocks differ, and a person takes a moment."""
APPROVING_ROLES = {"approver", "reviewer", "auditor"}
MAX_VALID_DAYS = 36_500
FIELDS = {"artifact", "verdict", "printed_name", "meaning", "time", "key", LOG}


class BadRule(ValueError):
    """A policy's check of approvals asks for what nobody can be asked: a raw manifest was put there."""


@dataclass(frozen=True)
class Decision:
    """A decision that counts, and where it stands."""

    index: int
    kind: str
    digest: str
    signer: Verifier
    person: str
    body: Mapping[str, Any]

    @property
    def about(self) -> tuple[str, str]:
        """Digests of artifact and verdict."""
        return str(self.body["artifact"]), str(self.body["verdict"])

    def expired(self, at: str, *, valid_for_days: float | None = None) -> bool:
        """Whether it no longer counts at a moment (RFC 3339): by its own ``expires``, or by a policy's limit."""
        moment = read_time(at)
        if (expires := self.body.get("expires")) and moment >= read_time(str(expires)):
            return True
        limit = timedelta(days=valid_for_days) if valid_for_days is not None else None
        return limit is not None and moment - read_time(str(self.body["time"])) > limit


@dataclass(frozen=True)
class Rule:
    """How many approvals by whom a policy asks for; the fields of its check ``approvals``."""

    required: int = 1
    roles: tuple[str, ...] = ("approver",)
    of: tuple[str, ...] = ()
    meaning: str = "approved for production"
    valid_for_days: float | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Rule":
        """From a check's JSON, which nobody may have checked; what is not stated has its default.

        Raises:
            BadRule: a value is none that ``app.governance.checks.Approvals`` takes.
            TypeError: it is no JSON object of such a check.
        """
        known: dict[str, Any] = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        for name in known.keys() & {"roles", "of"}:
            known[name] = tuple(known[name])
        rule = cls(**known)
        if wrong := [name for name, good in _JUDGED.items() if not good(getattr(rule, name))]:
            raise BadRule(f"its check of approvals states {', '.join(wrong)} as no policy can: judge by another one")
        return rule

    @classmethod
    def of_policy(cls, manifest: Mapping[str, Any]) -> "Rule":
        """The rule of a policy version; one approver's signature where it states none."""
        checks = manifest.get("inputs", {}).get("policy", {}).get("checks", ())
        return cls.read(next((check for check in checks if check.get("kind") == "approvals"), {}))

    def count(self, decisions: Iterable[Decision], at: str) -> tuple[int, list[Decision]]:
        """How many approvals there are at a moment, by different keys of different persons, and which."""
        counted = [each for each in decisions if self._counts(each, at)]
        keys = {each.signer.digest for each in counted}
        people = {each.person for each in counted}
        return min(len(keys), len(people)), counted

    def _counts(self, decision: Decision, at: str) -> bool:
        named = not self.of or decision.signer.key_name in self.of
        said = decision.signer.role in self.roles and decision.body["meaning"] == self.meaning
        return named and said and not decision.expired(at, valid_for_days=self.valid_for_days)


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(each, str) for each in values)


_JUDGED: Mapping[str, Callable[[Any], bool]] = {
    "required": lambda value: type(value) is int and value > 0,
    "roles": lambda value: _are_texts(value) and bool(value) and set(value) <= APPROVING_ROLES,
    "of": _are_texts,
    "meaning": lambda value: isinstance(value, str),
    "valid_for_days": lambda value: value is None or (type(value) in (int, float) and 0 < value <= MAX_VALID_DAYS),
}
"""What each field of a rule may hold; NaN and infinity lie outside of every range."""


@dataclass
class DecisionBook:
    """All decisions of a log: those that count, and why the others do not (by the index of their leaf)."""

    keys: KeyBook
    log_key: str
    valid: list[Decision] = field(default_factory=list)
    objections: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, leaves: Sequence[Leaf], manifest_of: ManifestOf, keys: KeyBook, *, log_key: str) -> "DecisionBook":
        """Judge every decision leaf of the log of a verifier key; ``leaves`` holds verdicts' leaves too."""
        book = cls(keys, log_key)
        verdicts: dict[str, Leaf] = {}
        for leaf in leaves:
            if leaf.statement.kind == "verdict":
                verdicts[leaf.statement.subject] = leaf
            elif leaf.statement.kind in DECISIONS:
                manifest = manifest_of(leaf.statement.kind, leaf.statement.subject) or {}
                book._add(leaf, manifest, verdicts)
        return book

    def standing(self, kind: str, artifact: str, verdict: str, *, before: int = END) -> list[Decision]:
        """Decisions of a kind about an artifact under a verdict that nobody withdrew before a place in the log.

        A rejection stands under every verdict: judging the artifact again does not outvote it. An approval by somebody
        who was put on record as a trainer in between counts no longer.
        """
        earlier = [each for each in self.valid if each.index < before]
        withdrawn = {each.body["of"] for each in earlier if each.kind == WITHDRAWAL}
        mine = (each for each in earlier if each.kind == kind and each.about[0] == artifact)
        mine = (each for each in mine if kind == REJECTION or each.about[1] == verdict)
        found = [each for each in mine if each.digest not in withdrawn]
        return found if kind != APPROVAL else [each for each in found if not self._trains(each, before)]

    def _trains(self, decision: Decision, before: int) -> bool:
        return self.keys.trainer_objection(decision.signer, before) is not None

    def _add(self, leaf: Leaf, manifest: Mapping[str, Any], verdicts: Mapping[str, Leaf]) -> None:
        signed = manifest.get("facts", {}).get("signed", {})
        signed = signed if isinstance(signed, Mapping) else {}
        objection = find_objection(leaf, signed, verdicts, self.keys, log_key=self.log_key)
        if objection is None and leaf.statement.kind == WITHDRAWAL:
            objection = self.foreign(signed["body"], self.keys.person(Verifier.parse(signed["key"]).digest))
        if objection is not None:
            self.objections[leaf.index] = objection
            return
        signer = Verifier.parse(signed["key"])
        person, kind, digest = self.keys.person(signer.digest), leaf.statement.kind, leaf.statement.subject
        self.valid.append(Decision(leaf.index, kind, digest, signer, person, signed["body"]))

    def foreign(self, body: Mapping[str, Any], person: str) -> str | None:
        own = next((each for each in self.valid if each.digest == body.get("of")), None)
        if own is None or own.kind == WITHDRAWAL:
            return "it withdraws nothing that counts"
        return None if own.person == person else "it withdraws what another person signed"


def find_objection(
    leaf: Leaf, signed: Mapping[str, Any], verdicts: Mapping[str, Leaf], keys: KeyBook, *, log_key: str
) -> str | None:
    """Why a decision does not count where its leaf stands; None when it does.

    Args:
        verdicts: leaves of the verdicts before it, by digest.
        log_key: verifier key of the log that the leaf stands in.
    """
    signer = facts_signer(signed)
    if signer is None or not isinstance(signed["body"], Mapping):
        return "its signature does not hold"
    body = signed["body"]
    if missing := sorted(name for name in FIELDS if not body.get(name)):
        return f"it does not state {', '.join(missing)}"
    if body.get("decision") != leaf.statement.kind or body["key"] != signer.vkey:
        return "it was signed as something else, or for another key"
    if foreign := find_foreign(body, log_key):
        return foreign
    if leaf.statement.kind == REJECTION and not body.get("reason"):
        return "it rejects without a reason"
    verdict = verdicts.get(str(body["verdict"]))
    if verdict is None:
        return "its verdict does not stand before it"
    if found := keys.approver_objection(signer, leaf.index) or find_back_date(body, leaf, verdict):
        return found
    said = (body["verdict"], body["artifact"], signer.key_name)
    if leaf.statement.parents and (*leaf.statement.parents[:2], leaf.statement.actor) != said:
        return "its leaf names another verdict, artifact or signer than was signed"
    return None


def find_back_date(body: Mapping[str, Any], leaf: Leaf, verdict: Leaf) -> str | None:
    """How the time in a signature contradicts the log; None when it does not."""
    try:
        signed, logged = read_time(str(body["time"])), read_time(leaf.statement.time)
        judged = read_time(verdict.statement.time)
        if "expires" in body:
            read_time(str(body["expires"]))
    except ValueError:
        return f"its time {str(body['time'])[:40]!r} is none"
    if signed < judged:
        return f"it is back-dated: signed at {body['time']}, but its verdict is of {verdict.statement.time}"
    if abs((logged - signed).total_seconds()) > MAX_SKEW_S:
        return f"it is back-dated or post-dated: signed at {body['time']}, but logged at {leaf.statement.time}"
    return None


def read_time(text: str) -> datetime:
    """An aware moment from RFC 3339; ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment
