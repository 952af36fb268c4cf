"""What is in production and beside it, for `signalbox status`: by the ledger and the request log.

Guarantees: reads, changes nothing; a canary whose record cannot be trusted is said to be so, and the rest is told. Not
guaranteed: that a gateway serves it; its ``/healthz`` tells what it serves.
"""

from collections.abc import Mapping
from typing import Any

from app.core.errors import SignalboxError
from app.governance.moves import canary_leaf, steps_of
from app.ledger.log import MOVES, PROMOTION, ROLLBACK, STOP, Leaf
from app.registry.versions import Registry, VersionNotFound
from app.serving.comparison import compare, lines
from app.serving.release import RELEASE


def standing(registry: Registry) -> list[dict[str, Any]]:
    """For every name that has production: release, since when, whether stopped, and the canary that runs beside it.

    ``canary`` is a comparison of ``app.serving.comparison``, None where none runs, ``{"broken": why}`` where its record
    cannot be read.
    """
    moved = {leaf.statement.name for leaf in registry.ledger.leaves(PROMOTION)}
    names = sorted(target.partition("/")[2] for target in moved if target.startswith(f"{RELEASE}/"))
    return [_standing(registry, name) for name in names]


def standing_lines(found: Mapping[str, Any]) -> list[str]:
    """One name's standing for a terminal."""
    state = "stopped (the reader quotes, no model answers)" if found["stopped"] else "in production"
    head = f"{found['release']} {state} since {found['since']}"
    beside = found["canary"]
    if beside is None:
        return [head]
    if "broken" in beside:
        return [head, f"  a canary runs beside it, and {beside['broken']}"]
    return [
        head,
        f"  beside it the canary {beside['canary']['name']}, {lines(beside)[0]}",
        *_indented(lines(beside)[1:]),
    ]


def _indented(told: list[str]) -> list[str]:
    return [f"  {line}" for line in told]


def _standing(registry: Registry, name: str) -> dict[str, Any]:
    moves = steps_of(registry, f"{RELEASE}/{name}", MOVES)
    placed = [leaf for leaf in moves if leaf.statement.kind in (PROMOTION, ROLLBACK)][-1]
    stopped = moves[-1].statement.kind == STOP
    return {
        "name": name,
        "release": _ref(registry, placed),
        "digest": placed.statement.subject,
        "since": (moves[-1] if stopped else placed).statement.time,
        "stopped": stopped,
        "canary": _canary(registry, name),
    }


def _canary(registry: Registry, name: str) -> dict[str, Any] | None:
    if canary_leaf(registry, name) is None:
        return None
    try:
        return compare(registry, name)
    except SignalboxError as error:
        return {"broken": str(error)}


def _ref(registry: Registry, leaf: Leaf) -> str:
    """The release of a leaf by name and number; by digest where the registry has lost it."""
    try:
        return registry.get(RELEASE, leaf.statement.subject).ref
    except VersionNotFound:
        return leaf.statement.subject
