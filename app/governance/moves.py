"""What the ledger says of moves: what is in production, whether it is stopped, and which canary runs beside it.

Guarantees: reads, changes nothing; it goes by leaves alone, so that an alias that somebody moved behind the ledger's
back is told apart from what was promoted. Not guaranteed: that the leaves are in order; ``signalbox verify`` looks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from app.core.errors import SignalboxError
from app.ledger.log import CANARY, MOVES, PRODUCTION, PROMOTION, ROLLBACK, STEPS, STOP, Leaf
from app.ledger.moves import Audience, running_canary
from app.registry.versions import Registry, Version
from app.registry.whole import whole_record


class PromotionRefused(SignalboxError):
    """Production stays as it is: the message names what is missing."""


class NeverPromoted(PromotionRefused):
    """A rollback goes only to what was in production before: promote it instead."""


@dataclass(frozen=True)
class Canary:
    """A release that answers some requests beside production; ``leaf`` is the index of the leaf that says so."""

    digest: str
    audience: Audience
    leaf: int
    since: str
    reason: str


def is_stopped(registry: Registry, version: Version) -> bool:
    """Whether the last move of the version's name was a stop of this very version."""
    last = list(moves(registry, version))[-1:]
    return bool(last) and (last[0].statement.kind, last[0].statement.subject) == (STOP, version.digest)


def previous_of(release: Version, *, registry: Registry) -> Version:
    """What was in production before what is there now, as a rollback without a name needs it.

    Raises:
        NeverPromoted: nothing was.
    """
    placed = _placed(registry, release)
    now = registry.alias(release.kind, release.name, PRODUCTION)
    earlier = [digest for digest in placed if digest != now]
    if not earlier:
        raise NeverPromoted(f"nothing was in production before {release.ref}: `signalbox stop` takes its models out")
    return registry.get(release.kind, earlier[-1])


def placed_now(registry: Registry, version: Version) -> str | None:
    """The digest that the last promotion or rollback of a version's name put into production; None before the first.

    The alias ``production`` says the same, unless somebody moved it behind the ledger's back.
    """
    return next(reversed(_placed(registry, version)), None)


def moves(registry: Registry, version: Version) -> Iterator[Leaf]:
    """Move leaves of the name that ``version`` bears, oldest first."""
    yield from steps_of(registry, target_of(version), MOVES)


def canary_of(registry: Registry, name: str, *, kind: str = "release") -> Canary | None:
    """The canary that runs beside what is in production under a name now.

    Raises:
        ArtifactMissing, ArtifactChanged: its record is lost, or is another than its leaf commits to.
    """
    leaf = canary_leaf(registry, name, kind=kind)
    if leaf is None:
        return None
    body = whole_record(CANARY, leaf.statement.payload, registry)["facts"]["signed"]["body"]
    said = leaf.statement
    return Canary(said.subject, Audience.of(body), leaf.index, said.time, str(body["reason"]))


def canary_leaf(registry: Registry, name: str, *, kind: str = "release") -> Leaf | None:
    """The leaf of the canary that runs; it says which release that is, though its record is lost."""
    return running_canary(steps_of(registry, f"{kind}/{name}"))


def steps_of(registry: Registry, target: str, kinds: tuple[str, ...] = STEPS) -> list[Leaf]:
    """Leaves of moves and canaries of a target, as ``target_of`` names it, oldest first."""
    found = (leaf for kind in kinds for leaf in registry.ledger.leaves(kind) if leaf.statement.name == target)
    return sorted(found, key=lambda leaf: leaf.index)


def _placed(registry: Registry, version: Version) -> list[str]:
    """All that was put into production under the name of a version, oldest first."""
    return [leaf.statement.subject for leaf in moves(registry, version) if leaf.statement.kind in (PROMOTION, ROLLBACK)]


def target_of(version: Version) -> str:
    """How leaves name the alias ``production`` of a version."""
    return f"{version.kind}/{version.name}"
