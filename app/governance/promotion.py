"""The only way into production: ``promote`` with verdict and approvals; and ``rollback``, ``stop``, ``resume``.

Every move is a leaf with a reason, signed by the key that made it. A stop leaves the alias ``production`` where it is
and takes the release's models out of service, until a resume, a rollback or the promotion of another release.

Guarantees: the alias ``production`` and its ledger leaf change in one transaction or not at all; a promotion demands a
verdict that replays to itself and is not red, under the very policy named, for a release with models one of the gate
before traffic too, for one that searches with a tuned retriever one that let that retriever through, the approvals that
the policies ask for, and no rejection that stands, all judged on what the ledger holds when the leaf is appended.
Not guaranteed: against somebody who edits the database; ``signalbox verify`` names an alias moved that way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from app.core.clock import timestamp
from app.core.errors import UsageError
from app.core.schema import aliases, leaves, versions
from app.governance.approvals import check_records, judge_approvals, rejections, valid_approvals
from app.governance.checks import Approvals
from app.governance.evidence import INDEX
from app.governance.findings import Finding
from app.governance.gate import replay
from app.governance.grounding import objection_to
from app.governance.keys import key_book
from app.governance.moves import NeverPromoted, PromotionRefused, is_stopped, moves, target_of
from app.governance.policy import Policy, load_policy, policy_of, publish_policy
from app.governance.release import FURTHER, ROUTER_VERDICT, check_served, further_of, index_verdict_of
from app.governance.strictness import asks_less
from app.inference.retrievers import retriever_of
from app.ledger.binding import LOG
from app.ledger.decisions import Decision
from app.ledger.keys import Signer, sign_facts
from app.ledger.log import CANARY_END, PRODUCTION, PROMOTION, RESUME, ROLLBACK, STOP, Statement
from app.ledger.moves import AFTER, DECISIVE, may_be_judged, may_move, models_of
from app.registry.versions import Registry, Version, VersionNotFound

TRAFFIC, TRAFFIC_FACT = "release", "traffic"
"""The gate before traffic and its shipped policy; the fact of a promotion that names its verdict."""


@dataclass(frozen=True)
class Grounds:
    """What a move rests on: digests of verdict, policies and approvals, and the same by name."""

    parents: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class VerdictRefused(PromotionRefused):
    """The verdict is red, about something else, by another policy, or does not replay: judge again."""


class TrafficRefused(VerdictRefused):
    """The gate before traffic let nothing through: judge this very release by the policy ``release``."""


class RetrieverRefused(VerdictRefused):
    """No verdict let the retriever behind a release's index through: `jobs.promote --index` judges it and proposes."""


class PassagesRefused(VerdictRefused):
    """A release's models were judged with other passages than it gives them: propose it anew, with the same number."""


class RouterRefused(VerdictRefused):
    """No verdict let the router of a release through: `signalbox router propose` judges it and proposes."""


class ApprovalsMissing(PromotionRefused):
    """Not enough valid approvals: have an approver who is not the trainer sign this artifact and verdict."""


class Rejected(PromotionRefused):
    """Somebody rejected it: have them withdraw that, or make a better candidate."""


class MoverRefused(PromotionRefused):
    """This key may not move production: use a key on record with the role that the message names."""


class ProductionStopped(PromotionRefused):
    """Production is stopped: resume or roll back, each with a reason."""


class MovedMeanwhile(PromotionRefused):
    """Somebody decided, moved or revoked while this move was judged: run it again, to judge what is so now."""


class ReasonMissing(UsageError):
    """A move of production says why: give a reason."""


class NothingToStop(UsageError):
    """Nothing is in production, or it is stopped already: see `signalbox status`."""


class NothingToResume(UsageError):
    """Production is not stopped: there is nothing to resume."""


def promote(
    release: Version, *, verdict: Version, registry: Registry, policy: Policy, reason: str, signer: Signer | None = None
) -> None:
    """Put a version into production; does nothing when it is there by this verdict already.

    Args:
        signer: who makes the move; the log's own key by default.

    Raises:
        VerdictRefused: the verdict does not carry this promotion.
        TrafficRefused: a release with models has no verdict of the gate before traffic that does.
        RetrieverRefused: it searches with a tuned retriever, and no verdict let that through.
        PassagesRefused: its models were judged with other passages than it gives them, or without.
        RouterRefused: its router was trained on outcomes, and no verdict let that through.
        ApprovalsMissing: the policy asks for more approvals than there are.
        Rejected: a rejection stands.
        ProductionStopped: this very release was stopped.
        MoverRefused, ReasonMissing: who moves, or why, is not in order.
        ArtifactChanged: what would serve is not what was published.
    """
    mover, seen = check_mover(PROMOTION, signer, reason, registry)
    grounds = judge_grounds(release, verdict, policy, registry)
    if is_stopped(registry, release):
        raise ProductionStopped(f"{release.ref} was stopped: run `signalbox resume --reason ...`, or roll back")
    if not _stands(release, grounds.parents, registry):
        move(PROMOTION, release, grounds, registry=registry, signer=mover, reason=reason, seen=seen)


def judge_grounds(release: Version, verdict: Version, policy: Policy, registry: Registry) -> Grounds:
    """On what a release may be brought traffic: what ``promote`` and a canary demand alike.

    Raises:
        PromotionRefused: as for ``promote``, but for what concerns who moves and why.
    """
    policy_version = publish_policy(policy, registry)
    _check_verdict(release, verdict, policy_version, registry)
    _check_policy(release, policy_version, registry)
    check_served(release, registry=registry)
    traffic = _check_traffic(release, verdict, registry)
    _check_retriever(release, verdict, registry)
    if objection := objection_to(release, verdict, registry):
        raise PassagesRefused(
            f"{release.ref} is not promoted, {objection}: propose it with the passages it serves with"
        )
    _check_router(release, registry)
    _check_further(release, policy_version, registry)
    _check_rejections(release, rejections(release, registry=registry))
    finding = judge_signed(release, verdict, rule=policy_of(policy_version).approvals, registry=registry)
    if finding.light != "green":
        raise ApprovalsMissing(f"{release.ref} gets no traffic, {finding.reason}: have it approved, then try again")
    parents = (verdict.digest, policy_version.digest, *traffic.values(), *finding.inputs)
    facts: dict[str, Any] = {"light": verdict.facts["light"], "verdict": verdict.digest}
    return Grounds(parents, {**facts, "policy": policy_version.digest, **traffic, "approvals": list(finding.inputs)})


def rollback(to: Version, *, registry: Registry, reason: str, signer: Signer | None = None) -> None:
    """Put an earlier production version back; its own promotion, with verdict and approvals, stands behind it.

    Raises:
        NeverPromoted: it was never in production.
        Rejected: somebody rejected it since, and did not take that back.
        ProductionStopped: it is in production, but stopped.
        MoverRefused, ReasonMissing: who moves, or why, is not in order.
    """
    mover, seen = check_mover(ROLLBACK, signer, reason, registry)
    promoted = [leaf for leaf in moves(registry, to) if leaf.statement.kind == PROMOTION]
    behind = [leaf for leaf in promoted if leaf.statement.subject == to.digest]
    if not behind:
        raise NeverPromoted(f"{to.ref} was never in production: promote it, which asks for a verdict and approvals")
    _check_rejections(to, rejections(to, registry=registry))
    if is_stopped(registry, to):
        raise ProductionStopped(f"{to.ref} is what was stopped: run `signalbox resume --reason ...` to serve it again")
    if registry.alias(to.kind, to.name, PRODUCTION) == to.digest:
        return
    grounds = Grounds(behind[-1].statement.parents)
    move(ROLLBACK, to, grounds, registry=registry, signer=mover, reason=reason, seen=seen)


def stop(release: Version, *, registry: Registry, reason: str, signer: Signer | None = None) -> None:
    """Take the models of what is in production out of service; every key on record may, as with an emergency brake.

    Raises:
        NothingToStop: it is not in production, or stopped already.
        MoverRefused, ReasonMissing: who stops, or why, is not in order.
    """
    mover, seen = check_mover(STOP, signer, reason, registry)
    if registry.alias(release.kind, release.name, PRODUCTION) != release.digest or is_stopped(registry, release):
        raise NothingToStop(f"{release.ref} is not in production, or stopped already: nothing to stop")
    move(STOP, release, Grounds(), registry=registry, signer=mover, reason=reason, seen=seen)


def resume(release: Version, *, registry: Registry, reason: str, signer: Signer | None = None) -> None:
    """End a stop: the release that was stopped serves with its models again.

    Raises:
        NothingToResume: it is not stopped.
        MoverRefused, ReasonMissing: who resumes, or why, is not in order.
    """
    mover, seen = check_mover(RESUME, signer, reason, registry)
    if not is_stopped(registry, release):
        raise NothingToResume(f"{release.ref} is not stopped: nothing to resume")
    move(RESUME, release, Grounds(), registry=registry, signer=mover, reason=reason, seen=seen)


def judge_signed(release: Version, verdict: Version, *, rule: Approvals, registry: Registry) -> Finding:
    """Whether the approvals on a release are those that a rule asks for, and its index's own policy."""
    given, rules = valid_approvals(release, verdict, registry=registry), [rule]
    beside = index_verdict_of(release, registry=registry) if release.kind == "release" else None
    if beside and beside.digest != verdict.digest:
        rules.append(policy_of(registry.get("policy", str(beside.stated("inputs", "policy")))).approvals)
    findings = [judge_approvals(each, given) for each in rules]
    return next((each for each in findings if each.light != "green"), findings[0])


def check_mover(kind: str, signer: Signer | None, reason: str, registry: Registry) -> tuple[Signer, int]:
    """Who moves, and the last leaf that could matter to the move; all else must be judged after this.

    The log's own key is put on record with its first move; all others by ``signalbox keys new``.
    """
    if not reason.strip():
        raise ReasonMissing(f"a {kind} goes into the ledger with its reason: give one")
    if kind not in (STOP, CANARY_END):
        check_records(registry)  # the emergency brake works whatever was taken away
    mover = signer or registry.ledger.signer
    if mover.public == registry.ledger.signer.public:
        registry.ledger.register_key(mover.public)
    with registry.database.read() as connection:
        seen = _last_decisive(connection)
    if objection := may_move(kind, mover.public, key_book(registry)):
        raise MoverRefused(f"key {mover.public.key_name} may not make a {kind} ({objection}): use another key")
    return mover, seen


def _check_rejections(release: Version, stood: Sequence[Decision]) -> None:
    if stood:
        said = "; ".join(f"{each.body['printed_name']}: {each.body['reason']}" for each in stood)
        raise Rejected(f"{release.ref} stays out, it was rejected ({said}): have that withdrawn, or name another")


def _last_decisive(connection: Connection) -> int:
    """Index of the last leaf that decides, moves, or is about a key; -1 when there is none."""
    decisive = select(func.max(leaves.c.leaf_index)).where(leaves.c.kind.in_(DECISIVE))
    last = connection.execute(decisive).scalar_one_or_none()
    return -1 if last is None else int(last)


def _check_verdict(release: Version, verdict: Version, policy: Version, registry: Registry) -> None:
    if verdict.kind != "verdict":
        raise VerdictRefused(f"{verdict.kind} {verdict.ref} is no verdict: name the one about {release.ref}")
    if verdict.stated("inputs", "policy") != policy.digest:
        raise VerdictRefused(f"verdict {verdict.ref} was not judged by {policy.ref}: judge by it, then promote")
    model, gate = models_of(release.manifest)[:1], policy_of(policy).gate
    if model and gate not in ("candidate", "release"):
        raise VerdictRefused(f"verdict {verdict.ref} is of the {gate} gate: judge the model, then promote")
    if verdict.stated("facts", "artifact", "digest") not in may_be_judged(release.manifest, release.digest):
        about = verdict.stated("facts", "artifact", "ref")
        raise VerdictRefused(f"verdict {verdict.ref} is about {about}, no part of {release.ref}")
    if (light := verdict.stated("facts", "light")) not in ("green", "amber"):
        raise VerdictRefused(f"verdict {verdict.ref} is {light}: make a candidate that passes its gate")
    _check_replay(verdict, registry)


def _check_policy(release: Version, policy: Version, registry: Registry) -> None:
    """A policy does not ask less than one of its name by which the same release was promoted before."""
    for leaf in moves(registry, release):
        if leaf.statement.kind != PROMOTION:
            continue
        record = registry.store.manifest(PROMOTION, leaf.statement.payload)
        promoted = registry.get(release.kind, leaf.statement.subject)
        beside = index_verdict_of(promoted, registry=registry) if release.kind == "release" else None
        named = [record["facts"]["policy"], *([beside.manifest["inputs"]["policy"]] if beside else [])]
        for before in (registry.get("policy", digest) for digest in named):
            _check_asks_less(release, policy, before)


def _check_asks_less(release: Version, policy: Version, before: Version) -> None:
    if before.name == policy.name and (less := asks_less(policy_of(policy), policy_of(before))):
        said = f"asks less than {before.ref}, by which {release.name} was promoted before ({'; '.join(less)})"
        raise VerdictRefused(f"policy {policy.ref} {said}: judge by that one, or give the new one a name of its own")


def _check_retriever(release: Version, verdict: Version, registry: Registry) -> None:
    """A tuned retriever searches for traffic once a verdict let it: on this index, or on another that it made.

    An index that the pinned encoder made needs none.
    """
    if (index := _part_of(release, INDEX, registry)) is None:
        return
    if (retriever := retriever_of(index, registry=registry)) is None:
        return
    found, searches = index_verdict_of(release, registry=registry), f"{release.ref} searches with {retriever.ref}"
    if found is None:
        raise RetrieverRefused(f"{searches}, and no verdict let that through: run jobs.promote --index {index.ref}")
    judged = registry.get(INDEX, str(found.stated("facts", "artifact", "digest")))
    if judged.facts.get("retriever") != retriever.digest:
        said = f"{searches}, and verdict {found.ref} is about index {judged.ref}, which was made with another"
        raise RetrieverRefused(f"{said}: run jobs.promote --index {index.ref}")
    light, gate = found.stated("facts", "light"), found.stated("facts", "gate")
    if light not in ("green", "amber") or gate not in ("candidate", "release"):
        said = f"verdict {found.ref} of the {gate} gate on index {judged.ref} is {light}"
        raise RetrieverRefused(f"{said}: tune a better retriever, or keep the one before")
    if found.digest != verdict.digest:
        _check_replay(found, registry)
        _check_policy(release, registry.get("policy", found.manifest["inputs"]["policy"]), registry)


def _check_router(release: Version, registry: Registry) -> None:
    """A router that was trained on outcomes routes traffic once a verdict let that very router.

    One that only judges answers, which calibration makes for a pair of models, needs none.
    """
    router = _part_of(release, "router", registry)
    if router is None or "held_out" not in router.facts:
        return
    named = release.stated("inputs", ROUTER_VERDICT)
    found = registry.get("verdict", str(named)) if named else None
    said = f"{release.ref} routes by {router.ref}"
    if found is None or found.stated("facts", "artifact", "digest") != router.digest:
        raise RouterRefused(f"{said}, and no verdict on it is named: run `signalbox router propose {router.ref}`")
    if found.stated("facts", "light") not in ("green", "amber"):
        raise RouterRefused(f"{said}, and verdict {found.ref} on it is red: train another, or keep the one before")
    _check_replay(found, registry)


def _check_further(release: Version, policy: Version, registry: Registry) -> None:
    """Every model between small and large passed its gate, by the policy that judged the small one."""
    judged = {str(each[0]): each[1:] for each in release.stated("inputs", FURTHER) or []}
    for rung, digest in further_of(release).items():
        found = registry.get("verdict", str(judged[rung][1])) if rung in judged else None
        said = f"the model {rung!r} of {release.ref}"
        if found is None or found.stated("facts", "artifact", "digest") != digest:
            raise VerdictRefused(f"no verdict is about {said}: judge it, then build the release again")
        light = found.stated("facts", "light")
        if light not in ("green", "amber") or found.stated("inputs", "policy") != policy.digest:
            raise VerdictRefused(f"verdict {found.ref} on {said} is {light}, or by another policy than {policy.ref}")
        _check_replay(found, registry)


def _part_of(release: Version, part: str, registry: Registry) -> Version | None:
    """The index or the router of a release; None where it has none, or one that nobody published and nothing loads."""
    try:
        return registry.get(part, str(release.facts.get(part))) if release.kind == "release" else None
    except VersionNotFound:
        return None


def _check_traffic(release: Version, verdict: Version, registry: Registry) -> dict[str, str]:
    """The verdict of the gate before traffic on a release with models, by a policy that asks no less than the shipped.

    It went by the evaluations that the candidate's verdict went by, or others would be handed in for them.
    """
    if not models_of(release.manifest):
        return {}
    shipped, about = load_policy(TRAFFIC), {"kind": release.kind, "digest": release.digest}
    asked = [each for each in registry.versions("verdict") if each.stated("facts", "gate") == TRAFFIC]
    found = [each for each in asked if each.stated("inputs", "evidence", "artifact") == about]
    said = f"the gate before traffic has not judged {release.ref}"
    for each in found:
        if not (said := _traffic_problem(each, verdict, shipped, registry)):
            return {TRAFFIC_FACT: each.digest}
    raise TrafficRefused(f"{said}: have `signalbox gate judge --policy release` judge it, as whatever proposes it does")


def _traffic_problem(traffic: Version, verdict: Version, shipped: Policy, registry: Registry) -> str:
    """Why a verdict of the gate before traffic does not carry a promotion; empty when it does."""
    if (light := traffic.stated("facts", "light")) not in ("green", "amber"):
        return f"verdict {traffic.ref} of the gate before traffic is {light}"
    if traffic.stated("inputs", "evidence", "candidate") != verdict.stated("inputs", "evidence", "candidate"):
        return f"verdict {traffic.ref} is by other evaluations than {verdict.ref}"
    try:
        _check_replay(traffic, registry)
    except VerdictRefused as refused:
        return str(refused)
    less = asks_less(policy_of(registry.get("policy", traffic.manifest["inputs"]["policy"])), shipped)
    return f"verdict {traffic.ref} asks less than the shipped policy {TRAFFIC} ({'; '.join(less)})" if less else ""


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


def move(
    kind: str,
    version: Version,
    grounds: Grounds,
    *,
    registry: Registry,
    signer: Signer,
    reason: str,
    seen: int,
    said: Mapping[str, Any] | None = None,
) -> None:
    """Write the signed record to the store, then alias and leaf in one transaction.

    Args:
        seen: from ``check_mover``, which comes before whatever the move was judged by.
        said: what is signed besides.

    Raises:
        MovedMeanwhile: a leaf that could matter came after ``seen``.
    """
    previous, parents = registry.alias(version.kind, version.name, PRODUCTION), list(grounds.parents)
    actor, name = signer.public.key_name, target_of(version)
    body: dict[str, Any] = {LOG: registry.ledger.log_key, "move": kind, "name": name, "subject": version.digest}
    body |= {"previous": previous, "parents": parents, AFTER: seen, **(said or {})}
    signed = sign_facts({**body, "reason": reason, "time": timestamp()}, signer)
    record = {"kind": kind, "name": name, "inputs": {"subject": version.digest, "previous": previous}}
    record |= {"parents": parents, "facts": {**grounds.facts, "actor": actor, "reason": reason, "signed": signed}}
    payload = registry.store.publish(kind, None, record)
    statement = Statement(kind, version.digest, name, grounds.parents, payload, actor)
    with registry.database.write() as connection:
        if _last_decisive(connection) != seen:
            raise MovedMeanwhile(f"the ledger went on while this {kind} was judged: run it again")
        if kind in (PROMOTION, ROLLBACK):
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
