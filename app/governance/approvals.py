"""Approvals: an Ed25519 signature over artifact, verdict, printed name, time and meaning (21 CFR Part 11, 11.50).

The signer drafts and signs a body where the private key is; ``record`` checks all of it and publishes. Which decisions
count is said once, in ``app.ledger.decisions``.
Guarantees: a decision binds one verdict and one artifact in one ledger, is a version and a ledger leaf, its key is on
record for the person printed, and the trainer's key and person are refused under whatever name. The printed name stands
in the manifest alone; leaves name keys, which should be named by a pseudonym.
Not guaranteed: that the person behind a key is who the registrar was told; that a gateway which is asked what to sign
names its own log: who signs from afar compares the key that `signalbox approvals show` prints with the one known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.core.clock import rfc3339, timestamp, utc_now
from app.core.digests import digest_bytes, digest_json
from app.core.errors import SignalboxError, UsageError
from app.core.store import ArtifactMissing
from app.governance.checks import Approvals
from app.governance.evidence import find_ancestors
from app.governance.findings import Finding
from app.governance.keys import key_book, manifests_of, pseudonym_of
from app.ledger.binding import LOG
from app.ledger.decisions import (
    APPROVAL,
    DECISIONS,
    FIELDS,
    REJECTION,
    WITHDRAWAL,
    Decision,
    DecisionBook,
    Rule,
    find_objection,
)
from app.ledger.key_book import END, KeyBook
from app.ledger.keys import Signer, Verifier, facts_signer, sign_facts
from app.ledger.log import KEY, Leaf, Statement
from app.ledger.trainings import Trainers
from app.registry.versions import Registry, Version, VersionNotFound

REJECTED, WITHDRAWN = "rejected", "withdrawn"
"""Meanings of the signatures that are no approvals."""


class ApproverRefused(SignalboxError):
    """This key may not approve: have somebody approve who did not train the model, with a key of their own."""


class NothingToApprove(UsageError):
    """The verdict does not concern the artifact, or it is red: approve what a gate let through."""


class BadStatement(UsageError):
    """A signed statement says too little or cannot be true: draft it again, and sign that."""


class RecordsLost(SignalboxError):
    """A key's or decision's manifest is gone or changed; it could be a revocation: restore the store, then go on."""


@dataclass(frozen=True)
class Approval:
    """A valid signature and what it says."""

    digest: str
    signer: Verifier
    printed_name: str
    meaning: str
    time: str
    person: str = ""


def approve(
    verdict: Version,
    artifact: Version,
    *,
    signer: Signer,
    printed_name: str,
    meaning: str,
    registry: Registry,
    valid_for_days: float | None = None,
) -> Version:
    """Sign an artifact and its verdict, and publish the approval; one that stands already comes back as it is.

    Args:
        artifact: what will be promoted, a release or the judged artifact itself.
        printed_name: the person's name, as it is printed beside the signature.
        meaning: what the signature says, such as ``approved for production``.
        valid_for_days: after which it counts no more.

    Raises:
        ApproverRefused: the key may not approve this.
        NothingToApprove: the verdict is red or is about something else, or the signature would say too little.
    """
    said = {"printed_name": printed_name, "meaning": meaning, "key": signer.public.vkey}
    for standing in decisions(registry).standing(APPROVAL, artifact.digest, verdict.digest):
        if {**standing.body, **said} == standing.body and not standing.expired(timestamp()):
            return registry.get(APPROVAL, standing.digest)
    body = draft(verdict.digest, artifact, **_by(signer, printed_name, registry), meaning=meaning)
    return record(sign_facts(with_expiry(body, valid_for_days), signer), registry=registry)


def reject(
    verdict: Version, artifact: Version, *, signer: Signer, printed_name: str, reason: str, registry: Registry
) -> Version:
    """Sign that this artifact must not go into production; it blocks promotion until its person withdraws it."""
    body = draft(verdict.digest, artifact, **_by(signer, printed_name, registry), meaning=REJECTED)
    signed = sign_facts(body | {"decision": REJECTION, "reason": reason}, signer)
    return record(signed, registry=registry)


def withdraw(decision: Version, *, signer: Signer, printed_name: str, reason: str, registry: Registry) -> Version:
    """Take an approval or a rejection of one's own back."""
    body = draft_withdrawal(decision, signer=signer.public, printed_name=printed_name, reason=reason)
    return record(sign_facts(body, signer), registry=registry)


def draft(
    verdict: str,
    artifact: Version | Mapping[str, Any],
    *,
    log_key: str,
    signer: Verifier,
    printed_name: str,
    meaning: str,
) -> dict[str, Any]:
    """The body of an approval, to be signed within a few minutes.

    Args:
        verdict: its digest.
        artifact: a version, or its ``kind`` and ``digest`` as a server stated them.
        log_key: verifier key of the log that it is for, in which alone it will count.
    """
    named = artifact if isinstance(artifact, Mapping) else {"kind": artifact.kind, "digest": artifact.digest}
    return {
        "decision": APPROVAL,
        LOG: log_key,
        "artifact": named["digest"],
        "artifact_kind": named["kind"],
        "verdict": verdict,
        "key": signer.vkey,
        "printed_name": printed_name,
        "meaning": meaning,
        "time": timestamp(),
    }


def draft_from(about: Mapping[str, Any], *, signer: Signer, printed_name: str, meaning: str) -> dict[str, Any]:
    """The body of an approval of what a desk showed (``app.governance.desk``), for the log that it named."""
    named: dict[str, Any] = {"signer": signer.public, "printed_name": printed_name, "meaning": meaning}
    named["log_key"] = about["log"]
    return draft(about["verdict"]["digest"], about["artifact"], **named)


def with_expiry(body: dict[str, Any], valid_for_days: float | None) -> dict[str, Any]:
    """The same body with the moment after which it counts no more; unchanged for None."""
    if valid_for_days is None:
        return body
    return body | {"expires": rfc3339(utc_now() + timedelta(days=valid_for_days))}


def draft_withdrawal(decision: Version, *, signer: Verifier, printed_name: str, reason: str) -> dict[str, Any]:
    """The body of a withdrawal."""
    about = decision.facts["signed"]["body"]
    artifact = {"kind": about["artifact_kind"], "digest": about["artifact"]}
    said: dict[str, Any] = {"signer": signer, "printed_name": printed_name, "meaning": WITHDRAWN}
    body = draft(about["verdict"], artifact, log_key=about[LOG], **said)
    return body | {"decision": WITHDRAWAL, "of": decision.digest, "reason": reason}


def record(signed: Mapping[str, Any], *, registry: Registry) -> Version:
    """Check a signed decision and publish it; the same bytes again give the same version.

    Raises:
        BadStatement: the signature does not hold, or the body is incomplete, for another log, out of time or untrue.
        ApproverRefused: the key or its person may not decide about this.
        NothingToApprove: the verdict is red or about something else.
        RecordsLost: a key's or a decision's manifest is gone.
    """
    body, signer = _read(signed)
    if set(signed) != {"body", "key", "signature"} or not all(isinstance(body.get(each), str) for each in FIELDS):
        raise BadStatement(
            f"a signed statement holds body, key and signature, its body texts: {', '.join(sorted(FIELDS))}"
        )
    kind = body["decision"]
    artifact = _get(registry, str(body.get("artifact_kind")), str(body["artifact"]))
    verdict = _get(registry, "verdict", str(body["verdict"]))
    if (artifact.digest, verdict.digest) != (body["artifact"], body["verdict"]):
        raise BadStatement("artifact and verdict are signed by their digests, not by a name: draft it again")
    _check_subject(verdict, artifact, approving=kind == APPROVAL)
    check_records(registry)
    inputs = {"signed": digest_json(dict(signed))}
    if found := registry.find(kind, artifact.name, inputs):
        return found
    _check_signer(signer, body, artifact, registry)
    _check_now(signed, kind, verdict, registry)
    facts = {"signed": dict(signed), "printed_name": body["printed_name"], "meaning": body["meaning"]}
    parents = [verdict.digest, artifact.digest, *([body["of"]] if kind == WITHDRAWAL else [])]
    return registry.publish(kind, artifact.name, inputs=inputs, parents=parents, facts=facts, actor=signer.key_name)


def check_records(registry: Registry) -> None:
    """Keys and decisions are all as they were published: one taken away could be a rejection or a revocation.

    Raises:
        RecordsLost: one is not.
    """
    for leaf in (leaf for kind in (KEY, *DECISIONS) for leaf in registry.ledger.leaves(kind) if leaf.statement.payload):
        kind, digest = leaf.statement.kind, leaf.statement.payload
        try:
            whole = digest_bytes(registry.store.manifest_bytes(kind, digest)) == digest
        except ArtifactMissing:
            whole = False
        if not whole:
            raise RecordsLost(f"leaf {leaf.index}, {kind}: its manifest is gone or changed, restore it from a backup")


def decisions(registry: Registry, book: KeyBook | None = None) -> DecisionBook:
    """Every decision of the registry's ledger, judged."""
    kinds = ("verdict", *DECISIONS)
    leaves = sorted((leaf for kind in kinds for leaf in registry.ledger.leaves(kind)), key=lambda leaf: leaf.index)
    keys = book or key_book(registry)
    return DecisionBook.read(leaves, manifests_of(registry), keys, log_key=registry.ledger.log_key)


def valid_approvals(
    artifact: Version, verdict: Version, *, registry: Registry, before: int = END, at: str | None = None
) -> list[Approval]:
    """Approvals of this artifact under this verdict that count, oldest first.

    Args:
        before: only those whose leaf stands before this index: who judges a past promotion gives its leaf's.
        at: RFC 3339 moment at which expired ones are left out; now by default.
    """
    standing = decisions(registry).standing(APPROVAL, artifact.digest, verdict.digest, before=before)
    fresh = [each for each in standing if not each.expired(at or timestamp())]
    return [_as_approval(each) for each in fresh if not _trained_by(artifact, each.signer, registry)]


def rejections(artifact: Version, *, registry: Registry) -> list[Decision]:
    """Rejections that nobody withdrew, under whatever verdict."""
    return decisions(registry).standing(REJECTION, artifact.digest, "")


def read_approval(version: Version) -> Approval | None:
    """What an approval says; None when its signature does not hold or says too little."""
    signed: dict[str, Any] = version.facts.get("signed", {})
    signer = facts_signer(signed)
    if signer is None or not {"printed_name", "meaning", "time"} <= signed["body"].keys():
        return None
    body = signed["body"]
    return Approval(version.digest, signer, str(body["printed_name"]), str(body["meaning"]), str(body["time"]))


def judge_approvals(rule: Approvals, approvals: list[Approval], *, at: str | None = None) -> Finding:
    """Whether enough different keys of different persons signed with the meaning that the policy asks for."""
    stated = Rule.read(rule.model_dump(mode="json"))
    number, counted = stated.count(map(_as_decision, approvals), at or timestamp())
    reason = f"{number} of {rule.required} approvals by {' or '.join(rule.roles)} with the meaning {rule.meaning!r}"
    inputs = tuple(each.digest for each in counted)
    return Finding("green" if number >= rule.required else "red", reason, number, rule.required, inputs)


def refusal(signer: Verifier, artifact: Version, registry: Registry) -> str | None:
    """Why a key may not approve this artifact; None when it may."""
    return key_book(registry).approver_objection(signer) or _trained_by(artifact, signer, registry)


def _by(signer: Signer, printed_name: str, registry: Registry) -> dict[str, Any]:
    return {"signer": signer.public, "printed_name": printed_name, "log_key": registry.ledger.log_key}


def _as_approval(decision: Decision) -> Approval:
    body = decision.body
    said = (str(body["printed_name"]), str(body["meaning"]), str(body["time"]))
    return Approval(decision.digest, decision.signer, *said, person=decision.person)


def _as_decision(approval: Approval) -> Decision:
    body = {"printed_name": approval.printed_name, "meaning": approval.meaning, "time": approval.time}
    person = approval.person or " ".join(approval.printed_name.casefold().split())
    return Decision(0, APPROVAL, approval.digest, approval.signer, person, body)


def _trained_by(artifact: Version, signer: Verifier, registry: Registry) -> str | None:
    """Whether a key or its person trained a model behind an artifact: as its leaf's actor, or by a signature."""
    found, _ = find_ancestors(registry, [artifact.digest])
    book, statements = key_book(registry), (leaf.statement for leaf in found.values())
    return Trainers.of(statements, manifests_of(registry), book).objection(signer, book)


def _read(signed: Mapping[str, Any]) -> tuple[Mapping[str, Any], Verifier]:
    signer = facts_signer(signed)
    body = signed.get("body")
    if signer is None or not isinstance(body, Mapping):
        raise BadStatement("the signature does not hold: sign the statement as it was drafted")
    if body.get("decision") not in DECISIONS or body.get("key") != signer.vkey:
        raise BadStatement("the statement is no approval, rejection or withdrawal by the key that signed it")
    for name in ("printed_name", "meaning"):
        if not str(body.get(name, "")).strip():
            raise NothingToApprove("an approval needs a printed name and a meaning: give both")
    if body["decision"] != APPROVAL and not str(body.get("reason", "")).strip():
        raise BadStatement(f"a {body['decision']} needs a reason: say why, in a sentence")
    return body, signer


def _get(registry: Registry, kind: str, digest: str) -> Version:
    """A version by digest, whatever kind its digest was said to have."""
    try:
        return registry.get(kind, digest)
    except VersionNotFound:
        others = [version for version in registry.versions() if version.digest == digest]
        if others:
            return others[0]
        raise


def _check_subject(verdict: Version, artifact: Version, *, approving: bool = True) -> None:
    if verdict.kind != "verdict":
        raise NothingToApprove(f"{verdict.kind} {verdict.ref} is no verdict: judge {artifact.ref}, then approve")
    judged = verdict.stated("facts", "artifact", "digest")
    if judged not in (artifact.digest, *artifact.parents):
        ref = verdict.stated("facts", "artifact", "ref")
        raise NothingToApprove(f"verdict {verdict.ref} is about {ref}, not {artifact.ref}: name its own verdict")
    light = verdict.stated("facts", "light")
    if approving and light not in ("green", "amber"):
        raise NothingToApprove(f"verdict {verdict.ref} is {light}: make a candidate that passes, then approve that")


def _check_signer(signer: Verifier, body: Mapping[str, Any], artifact: Version, registry: Registry) -> None:
    reason = refusal(signer, artifact, registry)
    person = key_book(registry).person(signer.digest)
    if reason is None and pseudonym_of(registry, str(body["printed_name"])) != person:
        reason = "the printed name is not that of the person it belongs to"
    if reason:
        message = f"key {signer.key_name} may not approve {artifact.ref} ({reason}): use an approver's own key"
        raise ApproverRefused(f"{message}, made with `signalbox keys new`")


def _check_now(signed: Mapping[str, Any], kind: str, verdict: Version, registry: Registry) -> None:
    """What ``verify`` will ask of the leaf, asked beforehand of one that would be appended now."""
    leaf = Leaf(registry.ledger.size, Statement(kind=kind, subject="", time=timestamp()))
    leaves = {found.statement.subject: found for found in registry.ledger.leaves("verdict", subject=verdict.digest)}
    objection = find_objection(leaf, signed, leaves, key_book(registry), log_key=registry.ledger.log_key)
    if objection is None and kind == WITHDRAWAL:
        objection = _foreign(signed, registry)
    if objection:
        raise BadStatement(f"the {kind} is not taken ({objection}): draft it again, sign that, and look at the clock")


def _foreign(signed: Mapping[str, Any], registry: Registry) -> str | None:
    book = key_book(registry)
    person = book.person(Verifier.parse(str(signed["key"])).digest)
    return decisions(registry, book).foreign(signed["body"], person)
