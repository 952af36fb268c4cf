"""What an answer, or a step, costs in time and money."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from app.governance.checks.base import Check
from app.governance.evidence import TARGET, Evidence, EvidenceMissing
from app.governance.findings import Finding, passes

USD, MINUTES, MEMORY = "usd", "minutes", "memory_bytes"
"""What a training needs, as its plan names what would need less."""


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


class Need(NamedTuple):
    """A figure of a run beside its limit."""

    name: str
    figure: float
    limit: float

    def shown(self, value: float) -> str:
        """A value in this need's unit."""
        if self.name == USD:
            return f"${value:.4g}"
        return f"{value:.3g} minutes" if self.name == MINUTES else f"{value / 1e9:.3g} GB a worker"


class TrainingBudget(Check):
    """A training's estimate stays within the money, the time and the memory of the budget. Unit: share of the limit
    that is nearest, of what is limited.

    The artifact is the plan of the run; its fact ``estimate`` states ``cost_usd``, ``duration_s`` and ``memory_bytes``
    of a worker, and ``to_need_less`` which settings to change for less.
    """

    kind: Literal["training_budget"] = "training_budget"

    maximum_usd: NonNegativeFloat | None = None
    """Most US dollars of a run; null: as many as it takes."""

    maximum_minutes: PositiveFloat | None = None
    """Most minutes of a run; null: as many as it takes."""

    maximum_memory_bytes: PositiveInt | None = None
    """Most memory of a worker; null: as much as it takes."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if (self.maximum_usd, self.maximum_minutes, self.maximum_memory_bytes) == (None, None, None):
            raise ValueError("training_budget needs maximum_usd, maximum_minutes or maximum_memory_bytes")
        return self

    def judge(self, evidence: Evidence) -> Finding:
        needs = self._needs(evidence)
        over = [each for each in needs if not 0 <= each.figure <= each.limit]
        said = ", ".join(each.shown(each.figure) for each in needs)
        reason = f"{said} expected, within {', '.join(each.shown(each.limit) for each in needs)}"
        if over:
            less = evidence.artifact.facts.get("to_need_less", {})
            reason = "; ".join(_too_much(each, less) for each in over)
        figure = max(each.figure / each.limit if each.limit else float(each.figure > 0) * 2 for each in needs)
        return Finding(passes(not over), reason, figure, 1.0, (evidence.artifact.digest,))

    def _needs(self, evidence: Evidence) -> list[Need]:
        """The figures that are limited."""
        limits = {
            USD: (self.maximum_usd, "cost_usd", 1.0),
            MINUTES: (self.maximum_minutes, "duration_s", 60.0),
            MEMORY: (self.maximum_memory_bytes, "memory_bytes", 1.0),
        }
        return [
            Need(name, float(evidence.fact(f"estimate.{fact}")) / unit, limit)
            for name, (limit, fact, unit) in limits.items()
            if limit is not None
        ]


def _too_much(need: Need, less: Mapping[str, Any]) -> str:
    change = f"{less[need.name]}, or " if need.name in less else ""
    what = f"{need.shown(need.figure)} expected, at most {need.shown(need.limit)} allowed"
    return f"{what}: {change}raise maximum_{need.name} of the policy's training_budget"


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
