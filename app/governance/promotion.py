"""The only way into production: ``promote`` with verdict and approvals, and ``rollback`` to what was there before.

Guarantees: the alias ``production`` and its ledger leaf change in one transaction or not at all; a promotion demands a
verdict that replays to itself and is not red, under the very policy named, and the approvals that policy asks for.
Not guaranteed: against somebody who edits the database; ``signalbox verify`` names an alias moved that way.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from app.core.clock import timestamp
from app.core.errors import SignalboxError
from app.core.schema import aliases, versions
from app.governance.approvals import judge_approvals, valid_approvals
from app.governance.gate import replay
from app.governance.policy import Policy, publish_policy
from app.ledger.log import MOVES, PRODUCTION, PROMOTION, ROLLBACK, Leaf, Statement
from app.registry.versions import Registry, Version, VersionNotFound


class PromotionRefused(SignalboxError):
    """Production stays as it is: the message names what is missing."""


class VerdictRefused(PromotionRefused):
    """The verdict is red, about something else, by another policy, or does not replay: judge again."""


class ApprovalsMissing(PromotionRefused):
    """Not enough valid approvals: have an approver who is not the trainer sign this artifact and verdict."""


class NeverPromoted(PromotionRefused):
    """A rollback goes only to what was in production before: promote it instead."""


def promote(
    release: Version, *, verdict: Version, registry: Registry, policy: Policy, actor: str, reason: str = ""
) -> None:
    """Put a version into production; does nothing when it is there by this verdict already.

    Raises:
        VerdictRefused: the verdict does not carry this promotion.
        ApprovalsMissing: the policy asks for more approvals than there are.
    """
    policy_version = publish_policy(policy, registry)
    _check_verdict(release, verdict, policy_version, registry)
    finding = judge_approvals(policy.approvals, valid_approvals(release, verdict, registry=registry))
    if finding.light != "green":
        raise ApprovalsMissing(f"{release.ref} is not promoted, {finding.reason}: have it approved, then try again")
    parents = (verdict.digest, policy_version.digest, *finding.inputs)
    if _stands(release, parents, registry):
        return
    facts: dict[str, Any] = {"actor": actor, "reason": reason, "light": verdict.facts["light"]}
    facts |= {"verdict": verdict.digest, "policy": policy_version.digest, "approvals": list(finding.inputs)}
    _move(PROMOTION, release, parents, facts, registry=registry, actor=actor)


def rollback(to: Version, *, registry: Registry, actor: str, reason: str) -> None:
    """Put an earlier production version back; its own promotion, with verdict and approvals, stands behind it.

    Raises:
        NeverPromoted: it was never in production.
    """
    promoted = [leaf for leaf in moves(registry, to) if leaf.statement.kind == PROMOTION]
    behind = [leaf for leaf in promoted if leaf.statement.subject == to.digest]
    if not behind:
        raise NeverPromoted(f"{to.ref} was never in production: promote it, which asks for a verdict and approvals")
    if registry.alias(to.kind, to.name, PRODUCTION) == to.digest:
        return
    facts = {"actor": actor, "reason": reason}
    _move(ROLLBACK, to, behind[-1].statement.parents, facts, registry=registry, actor=actor)


def moves(registry: Registry, version: Version) -> Iterator[Leaf]:
    """Promotion and rollback leaves of the name that ``version`` bears, oldest first."""
    target = target_of(version)
    for leaf in registry.ledger.leaves():
        if leaf.statement.kind in MOVES and leaf.statement.name == target:
            yield leaf


def target_of(version: Version) -> str:
    """How leaves name the alias ``production`` of a version."""
    return f"{version.kind}/{version.name}"


def _check_verdict(release: Version, verdict: Version, policy: Version, registry: Registry) -> None:
    inputs, facts = verdict.manifest["inputs"], verdict.facts
    if verdict.kind != "verdict":
        raise VerdictRefused(f"{verdict.kind} {verdict.ref} is no verdict: name the one about {release.ref}")
    if inputs.get("policy") != policy.digest:
        raise VerdictRefused(f"verdict {verdict.ref} was not judged by {policy.ref}: judge by it, then promote")
    if facts["artifact"]["digest"] not in (release.digest, *release.parents):
        raise VerdictRefused(f"verdict {verdict.ref} is about {facts['artifact']['ref']}, no part of {release.ref}")
    if facts["light"] not in ("green", "amber"):
        raise VerdictRefused(f"verdict {verdict.ref} is {facts['light']}: make a candidate that passes its gate")
    _check_replay(verdict, registry)


def _check_replay(verdict: Version, registry: Registry) -> None:
    try:
        again = replay(verdict, registry=registry)
    except (KeyError, VersionNotFound) as error:
        raise VerdictRefused(f"verdict {verdict.ref} records no evidence to judge by ({error}): judge again") from error
    if not again.same:
        found = "; ".join(again.differences) or "another digest"
        raise VerdictRefused(f"verdict {verdict.ref} does not come out the same again ({found}): judge again")


def _stands(release: Version, parents: Sequence[str], registry: Registry) -> bool:
    """Whether the version is in production by a promotion with these very parents."""
    if registry.alias(release.kind, release.name, PRODUCTION) != release.digest:
        return False
    last = list(moves(registry, release))[-1:]
    return bool(last) and last[0].statement.parents == tuple(parents)


def _move(
    kind: str, version: Version, parents: Sequence[str], facts: dict[str, Any], *, registry: Registry, actor: str
) -> None:
    """Write the record to the store, then alias and leaf in one transaction."""
    previous = registry.alias(version.kind, version.name, PRODUCTION)
    record = {"kind": kind, "name": target_of(version), "inputs": {"subject": version.digest, "previous": previous}}
    payload = registry.store.publish(kind, None, {**record, "parents": list(parents), "facts": facts})
    statement = Statement(
        kind=kind,
        subject=version.digest,
        name=target_of(version),
        parents=tuple(parents),
        payload=payload,
        actor=actor,
    )
    with registry.database.write() as connection:
        _set_alias(connection, version)
        registry.ledger.append([statement], connection=connection)


def _set_alias(connection: Connection, version: Version) -> None:
    row = select(versions.c.id).where(
        versions.c.kind == version.kind, versions.c.name == version.name, versions.c.digest == version.digest
    )
    key = {"kind": version.kind, "name": version.name, "alias": PRODUCTION}
    connection.execute(delete(aliases).where(*(aliases.c[column] == value for column, value in key.items())))
    values = {**key, "version_id": connection.execute(row).scalar_one(), "updated_at": timestamp()}
    connection.execute(insert(aliases).values(**values))
