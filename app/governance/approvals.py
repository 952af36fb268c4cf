"""Approvals: an Ed25519 signature over artifact, verdict, printed name, time and meaning (21 CFR Part 11, 11.50).

Guarantees: an approval binds one verdict and one artifact, is a version and a ledger leaf, and its key is on record
in the ledger. The trainer's key is refused, under whatever name or role it comes. The printed name stands in the
manifest alone; the leaf names the key, which should be named by a pseudonym.
Not guaranteed: that the person behind a key is who the printed name says.
"""

from dataclasses import dataclass
from typing import Any

from app.core.clock import timestamp
from app.core.errors import SignalboxError, UsageError
from app.governance.checks import Approvals
from app.governance.evidence import find_ancestors
from app.governance.findings import Finding
from app.ledger.keys import Signer, Verifier, facts_signer, public_keys, sign_facts
from app.ledger.log import KEY
from app.registry.versions import Registry, Version


class ApproverRefused(SignalboxError):
    """This key may not approve: have somebody approve who did not train the model, with a key of their own."""


class NothingToApprove(UsageError):
    """The verdict does not concern the artifact, or it is red: approve what a gate let through."""


@dataclass(frozen=True)
class Approval:
    """A valid signature and what it says."""

    digest: str
    signer: Verifier
    printed_name: str
    meaning: str
    time: str


def approve(
    verdict: Version, artifact: Version, *, signer: Signer, printed_name: str, meaning: str, registry: Registry
) -> Version:
    """Sign an artifact and its verdict, and publish the approval; signing the same again gives the first approval.

    Args:
        artifact: what will be promoted, a release or the judged artifact itself.
        printed_name: the person's name, as it is printed beside the signature.
        meaning: what the signature says, such as ``approved for production``.

    Raises:
        ApproverRefused: the key has no approving role, or it is the trainer's.
        NothingToApprove: the verdict is red or is about something else.
    """
    _check_subject(verdict, artifact)
    if not printed_name.strip() or not meaning.strip():
        raise NothingToApprove("an approval needs a printed name and a meaning: give both")
    _check_approver(signer.public, artifact, registry)
    inputs = {"artifact": artifact.digest, "verdict": verdict.digest, "key": signer.public.vkey, "meaning": meaning}
    if found := registry.find("approval", artifact.name, inputs):
        return found
    registry.ledger.register_key(signer.public)
    body = {**inputs, "artifact_kind": artifact.kind, "printed_name": printed_name, "time": timestamp()}
    return registry.publish(
        "approval",
        artifact.name,
        inputs=inputs,
        parents=[verdict.digest, artifact.digest],
        facts={"signed": sign_facts(body, signer), "printed_name": printed_name, "meaning": meaning},
        actor=signer.public.key_name,
    )


def valid_approvals(artifact: Version, verdict: Version, *, registry: Registry) -> list[Approval]:
    """Approvals of this artifact under this verdict whose signature holds and whose key may approve, oldest first."""
    on_record = {leaf.statement.subject for leaf in registry.ledger.leaves(KEY)}
    valid = []
    for version in registry.versions("approval"):
        approval = read_approval(version)
        signed = version.facts.get("signed", {}).get("body", {})
        bound = (signed.get("artifact"), signed.get("verdict")) == (artifact.digest, verdict.digest)
        if not approval or not bound or approval.signer.digest not in on_record:
            continue
        if not refusal(approval.signer, artifact, registry):
            valid.append(approval)
    return valid


def read_approval(version: Version) -> Approval | None:
    """What an approval says; None when its signature does not hold or says too little."""
    signed: dict[str, Any] = version.facts.get("signed", {})
    signer = facts_signer(signed)
    if signer is None or not {"printed_name", "meaning", "time"} <= signed["body"].keys():
        return None
    body = signed["body"]
    return Approval(version.digest, signer, str(body["printed_name"]), str(body["meaning"]), str(body["time"]))


def judge_approvals(rule: Approvals, approvals: list[Approval]) -> Finding:
    """Whether enough different keys of different persons signed with the meaning that the policy asks for."""
    counted = [approval for approval in approvals if _counts(rule, approval)]
    keys = {approval.signer.digest for approval in counted}
    people = {" ".join(approval.printed_name.casefold().split()) for approval in counted}
    number = min(len(keys), len(people))
    reason = f"{number} of {rule.required} approvals by {' or '.join(rule.roles)} with the meaning {rule.meaning!r}"
    inputs = tuple(approval.digest for approval in counted)
    return Finding("green" if number >= rule.required else "red", reason, number, rule.required, inputs)


def refusal(signer: Verifier, artifact: Version, registry: Registry) -> str | None:
    """Why a key may not approve this artifact; None when it may."""
    if signer.role in ("trainer", "service"):
        return f"its role is {signer.role}"
    if signer.digest in trainer_keys(registry):
        return "the same key is on record as a trainer's"
    if {signer.key_name, signer.name} & _trained_by(artifact, registry):
        return "it trained a model behind this artifact"
    return None


def trainer_keys(registry: Registry) -> set[str]:
    """Digests of raw public keys that the ledger or the workspace's key folder knows as a trainer's."""
    logged = [Verifier.parse(leaf.statement.name) for leaf in registry.ledger.leaves(KEY)]
    known = [*logged, *public_keys(registry.workspace.keys_dir)]
    return {verifier.digest for verifier in known if verifier.role == "trainer"}


def _counts(rule: Approvals, approval: Approval) -> bool:
    named = not rule.of or approval.signer.key_name in rule.of
    return named and approval.signer.role in rule.roles and approval.meaning == rule.meaning


def _trained_by(artifact: Version, registry: Registry) -> set[str]:
    """Actors of the model leaves behind an artifact."""
    found, _ = find_ancestors(registry, [artifact.digest])
    return {leaf.statement.actor for leaf in found.values() if leaf.statement.kind == "model"}


def _check_subject(verdict: Version, artifact: Version) -> None:
    if verdict.kind != "verdict":
        raise NothingToApprove(f"{verdict.kind} {verdict.ref} is no verdict: judge {artifact.ref}, then approve")
    judged = verdict.facts["artifact"]["digest"]
    if judged not in (artifact.digest, *artifact.parents):
        ref = verdict.facts["artifact"]["ref"]
        raise NothingToApprove(f"verdict {verdict.ref} is about {ref}, not {artifact.ref}: name its own verdict")
    if verdict.facts["light"] == "red":
        raise NothingToApprove(f"verdict {verdict.ref} is red: make a candidate that passes, then approve that")


def _check_approver(signer: Verifier, artifact: Version, registry: Registry) -> None:
    if reason := refusal(signer, artifact, registry):
        message = f"key {signer.key_name} may not approve {artifact.ref} ({reason}): use an approver's own key"
        raise ApproverRefused(message)
