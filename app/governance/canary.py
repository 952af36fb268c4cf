"""Canaries: a release beside production for a share of the requests, or for the holders of some API keys.

A canary is a signed leaf with share, keys (by digest) and reason. It ends with the next step of its name: its end, a
promotion, a rollback, a stop, a resume; and with another canary of the same release, which changes its audience.

Guarantees: a canary demands what a promotion demands (verdict, gate before traffic, approvals, no rejection), judged on
what the ledger holds when its leaf is appended; the alias ``production`` stays where it is. Not guaranteed: that a
gateway serves it; it does when the release is deployed next, and only where its models and index can be loaded.
"""

from collections.abc import Sequence

from app.core.errors import UsageError
from app.governance.moves import Canary, PromotionRefused, canary_leaf, canary_of, is_stopped, placed_now, target_of
from app.governance.policy import Policy
from app.governance.promotion import Grounds, ProductionStopped, check_mover, judge_grounds, move
from app.ledger.keys import Signer
from app.ledger.log import CANARY, CANARY_END
from app.ledger.moves import Audience
from app.registry.versions import Registry, Version


class BadAudience(UsageError):
    """A canary is for a share of the requests above 0 and up to 1, or for API keys: name one, or both."""


class CanaryRefused(PromotionRefused):
    """This release cannot be a canary now; the message says why, and what to do."""


class NoCanary(UsageError):
    """No canary runs: there is nothing to end and nothing to compare."""


def begin(
    release: Version,
    *,
    verdict: Version,
    registry: Registry,
    policy: Policy,
    reason: str,
    share: float = 0.0,
    callers: Sequence[str] = (),
    signer: Signer | None = None,
) -> None:
    """Run a release as a canary; does nothing when it runs so already.

    Args:
        share: of the requests, from 0 to 1.
        callers: digests of API keys whose requests it answers all.
        signer: who makes the move; the log's own key by default.

    Raises:
        BadAudience: there is nobody whom it would answer.
        CanaryRefused: it is in production itself, nothing is, or another canary runs.
        ProductionStopped: production is stopped.
        PromotionRefused: it may not be promoted either; see ``app.governance.promotion.promote``.
    """
    audience = Audience(share, tuple(sorted(set(callers))))
    if audience.objection:
        raise BadAudience(f"{audience.objection}: name --share between 0 and 1, or --caller")
    mover, seen = check_mover(CANARY, signer, reason, registry)
    running = _check_place(release, registry)
    grounds = judge_grounds(release, verdict, policy, registry)
    if running is None or running.audience != audience:
        said = audience.to_json()
        move(CANARY, release, grounds, registry=registry, signer=mover, reason=reason, seen=seen, said=said)


def end(name: str, *, registry: Registry, reason: str, signer: Signer | None = None) -> Version:
    """End the canary of a name, even one whose record is lost; every key on record may. Its release comes back.

    Raises:
        NoCanary: none runs.
        MoverRefused, ReasonMissing: who ends it, or why, is not in order.
    """
    mover, seen = check_mover(CANARY_END, signer, reason, registry)
    running = canary_leaf(registry, name)
    if running is None:
        raise NoCanary(f"no canary runs beside {name}: there is nothing to end")
    release = registry.get("release", running.statement.subject)
    move(CANARY_END, release, Grounds(), registry=registry, signer=mover, reason=reason, seen=seen)
    return release


def _check_place(release: Version, registry: Registry) -> Canary | None:
    """The canary of this very release that runs already; refused where none can run."""
    now, running = placed_now(registry, release), canary_of(registry, release.name)
    if now is None:
        raise CanaryRefused(f"nothing is in production under {release.name}, to run a canary beside: promote one first")
    if now == release.digest:
        raise CanaryRefused(f"{release.ref} is in production itself: name the release that is to run beside it")
    if is_stopped(registry, registry.get(release.kind, now)):
        raise ProductionStopped(f"{target_of(release)} is stopped: resume or roll back, then run a canary")
    if running and running.digest != release.digest:
        other = registry.get(release.kind, running.digest).ref
        raise CanaryRefused(f"{other} runs as a canary: end it first, with `signalbox canary --end --reason ...`")
    return running
