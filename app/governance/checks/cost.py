"""What an answer, or a step, costs in time and money."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat

from app.governance.checks.base import Check
from app.governance.evidence import TARGET, Evidence, EvidenceMissing
from app.governance.findings import Finding, passes


class LatencyCeiling(Check):
    """The suite's questions are answered fast enough. Unit: seconds per question, as the evaluation measured them."""

    kind: Literal["latency_ceiling"] = "latency_ceiling"

    suite: str = TARGET
    """Label of the evaluation."""

    fact: str = "seconds_per_question"
    """Which of its facts holds the seconds."""

    maximum_s: PositiveFloat
    """Most seconds allowed."""

    def judge(self, evidence: Evidence) -> Finding:
        evaluation = evidence.evaluation(self.suite)
        seconds = float(evidence.fact(self.fact, of=evaluation))
        reason = f"{seconds:.3f} s per question on {self.suite}, at most {self.maximum_s:g} s are allowed"
        return Finding(passes(seconds <= self.maximum_s), reason, seconds, self.maximum_s, (evaluation.digest,))


class CostCeiling(Check):
    """No price that the artifact states is higher than allowed. Unit: US dollars, of the dearest of the facts."""

    kind: Literal["cost_ceiling"] = "cost_ceiling"

    facts: tuple[str, ...] = ("prices.small_usd_per_1k_tokens",)
    """Facts of the artifact that hold a price or a cost, or several by name."""

    maximum_usd: NonNegativeFloat
    """Highest price allowed."""

    def judge(self, evidence: Evidence) -> Finding:
        fact, cost = _dearest(evidence, self.facts)
        reason = f"{fact} is ${cost:.6f}, at most ${self.maximum_usd:g} is allowed"
        return Finding(passes(cost <= self.maximum_usd), reason, cost, self.maximum_usd, (evidence.artifact.digest,))


class Budget(Check):
    """What a step will cost, with what was spent already, stays within the budget. Unit: US dollars.

    The artifact is the plan of the step; it states both figures, and its parents are what they were taken from.
    """

    kind: Literal["budget"] = "budget"

    estimate: str = "cost_usd"
    """Fact with the cost that is expected."""

    spent: str = "spent_usd"
    """Fact with what was spent already in the same cause."""

    maximum_usd: NonNegativeFloat
    """The budget."""

    def judge(self, evidence: Evidence) -> Finding:
        cost, spent = float(evidence.fact(self.estimate)), float(evidence.fact(self.spent))
        reason = f"${cost:.4f} expected and ${spent:.4f} spent, the budget is ${self.maximum_usd:g}"
        total = cost + spent
        holds = cost >= 0 and spent >= 0 and total <= self.maximum_usd
        return Finding(passes(holds), reason, total, self.maximum_usd, (evidence.artifact.digest,))


def _dearest(evidence: Evidence, facts: Sequence[str]) -> tuple[str, float]:
    costs: dict[str, float] = {}
    for fact in facts:
        value = evidence.fact(fact)
        named = (
            {f"{fact}.{name}": each for name, each in value.items()} if isinstance(value, Mapping) else {fact: value}
        )
        costs |= {name: float(each) for name, each in named.items()}
    if not costs:
        raise EvidenceMissing(f"{' and '.join(facts)} of {evidence.artifact.ref} name no price: state one")
    dearest = max(costs, key=lambda fact: costs[fact])
    return dearest, costs[dearest]
