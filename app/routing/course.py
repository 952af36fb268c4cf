"""Which models may answer a request, which of them are asked in which order, and which one chance may put in.

No model is asked where what was found, in a second and wider search too, is too far from the question: the documents
are quoted, as a larger model would know no better. A model is left out when its limits forbid it, when the conversation
has gone on to a larger one, or when the guarantee is void: then the largest alone answers. One that is allowed and that
a forecast calls a waste is not asked, but chance may put it in.

Guarantees: pure; the propensities of a request add up to one, and every allowed model has at least ``explore`` divided
by their number. Not guaranteed: that a model which is allowed answers well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.routing.router import Router


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What about a request, apart from its words, decides who may answer it."""

    num_chars: int = 0
    max_new_tokens: int = 32
    deadline_s: float | None = None
    floor: str = ""
    """The model that answered the conversation before; no smaller one answers now."""
    void: str = ""
    """Why the router's guarantee does not hold; empty while it does, or where there is none."""
    explore: float = 0.0
    """Share of calls that are dealt out by chance."""
    chance: float = 1.0
    """A number drawn evenly from 0 to 1."""


@dataclass(frozen=True)
class Course:
    """Where a request may go. ``allowed`` and ``asked`` are cheapest first."""

    allowed: tuple[str, ...]
    asked: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    qualities: Mapping[str, float] = field(default_factory=dict)
    """Of each model, the quality forecast before any was asked; empty where nothing forecasts it."""
    explore: float = 0.0
    drawn: str = ""
    """The model that chance puts in; empty for most requests."""

    def propensities(self, choice: str) -> dict[str, float]:
        """Of each allowed model, the probability with which it would have been used, given the router's own choice."""
        even = self.explore / max(1, len(self.allowed))
        return {rung: even + (1 - self.explore) * (rung == choice) for rung in self.allowed}


def set_course(
    router: Router | None,
    rungs: Sequence[str],
    circumstances: Circumstances,
    *,
    qualities: Mapping[str, float] | None = None,
    weak: bool = False,
) -> Course:
    """The course of a request.

    Args:
        weak: what was found is too far from the question: no model is asked, nothing is left to chance.
        rungs: the release's models, cheapest first.
        qualities: of each model, as forecast; None or empty: nothing is.
    """
    if weak:
        return Course((), (), dict.fromkeys(rungs, "what was found is too far from the question"), qualities or {})
    left_out = _left_out(router, rungs, circumstances)
    allowed = tuple(rung for rung in rungs if rung not in left_out)
    if circumstances.void:
        left_out |= dict.fromkeys(allowed[:-1], f"the guarantee is void: {circumstances.void}")
        allowed = allowed[-1:]
    wasted = _wasted(router, allowed, qualities or {})
    explore = circumstances.explore if len(allowed) > 1 else 0.0
    drawn = ""
    if circumstances.chance < explore:
        drawn = allowed[int(circumstances.chance / explore * len(allowed))]
    asked = tuple(rung for rung in allowed if rung not in wasted)
    return Course(allowed, asked, left_out | wasted, qualities or {}, explore, drawn)


def _left_out(router: Router | None, rungs: Sequence[str], about: Circumstances) -> dict[str, str]:
    """Why models may not answer, by model."""
    found = {}
    floor = rungs.index(about.floor) if about.floor in rungs else 0
    for place, rung in enumerate(rungs):
        card = router.cards.get(rung) if router else None
        size = {"num_chars": about.num_chars, "max_new_tokens": about.max_new_tokens}
        if card and (objection := card.objection(**size, deadline_s=about.deadline_s)):
            found[rung] = objection
        elif place < floor:
            found[rung] = f"the conversation has gone on to {about.floor}"
    return found


def _wasted(router: Router | None, allowed: Sequence[str], qualities: Mapping[str, float]) -> dict[str, str]:
    """Models that are not worth asking, as the last allowed one is expected to be so much better."""
    if router is not None and router.idle:
        return dict.fromkeys(allowed[:-1], "the guarantee lets no answer of it stand")
    if router is None or router.foresight is None or not qualities:
        return {}
    last, skip = qualities[allowed[-1]] if allowed else 0.0, router.foresight.skip
    gaps = {rung: last - qualities[rung] for rung in allowed[:-1] if rung in qualities}
    return {
        rung: f"{allowed[-1]} is expected to be better by {gap:.2f}"
        for rung, gap in gaps.items()
        if gap > skip.get(rung, 1.0)
    }
