"""The gate before a deeper rung of the ladder: what it will cost, and whether the cheaper rungs were tried.

Guarantees: nothing is trained for a rung that asks here and is refused; the plan, its figures and the verdict are on
record. Not guaranteed: that the cost comes out as planned.
"""

from collections.abc import Mapping

from app.escalation.ladder import RUNGS
from app.governance.checks.spending import BY_HAND
from app.governance.stoplights import ask, cost_of, publish_plan
from app.registry.versions import Registry, Version

ESCALATION = "escalation"


def ask_to_climb(
    rung: str, *, measured: Mapping[str, Version], cost_usd: float, registry: Registry, policy: str = ESCALATION
) -> Version:
    """The verdict on going to a deeper rung.

    Args:
        rung: where to go.
        measured: evaluations of the cheaper rungs on the target suite, by rung.
        cost_usd: what the rung is expected to cost.

    Raises:
        StopLight: the gate is red, above all because a cheaper rung was not measured.
        ValueError: it is no rung.
    """
    if rung not in RUNGS:
        raise ValueError(f"{rung!r} is no rung of the ladder: use one of {', '.join(RUNGS)}")
    cheaper = RUNGS[: RUNGS.index(rung)]
    known = {name: version for name, version in measured.items() if name in cheaper}
    facts = {"rung": rung, "cheaper": list(cheaper), "measured": [version.digest for version in known.values()]}
    plan = publish_plan(
        f"{ESCALATION}-{rung}",
        cause=BY_HAND,
        parents=list(known.values()),
        cost_usd=cost_usd,
        spent_usd=0.0,
        registry=registry,
        facts=facts | {"cost_usd": cost_usd},
    )
    return ask(ESCALATION, plan, registry=registry, policy=policy, candidate=known)


def expected_cost_usd(like: Version, *, num_rows: int) -> float:
    """US dollars that a training is expected to cost: what another one cost for a row that it saw, times the rows."""
    num_seen = int(like.facts["train"]["steps"]) * int(like.manifest["inputs"]["settings"]["batch_size"])
    return cost_of(like) / num_seen * num_rows
