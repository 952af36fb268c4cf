"""Whether a step that costs something is called for: its reason, the pause before it, what was tried already."""

from datetime import datetime
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from app.governance.checks.base import Check, Share
from app.governance.evidence import PLAN, Evidence, EvidenceMissing
from app.governance.findings import Finding, passes
from app.ledger.log import Leaf

BY_HAND = "by hand"


class TriggerEvidence(Check):
    """A plan has a reason: a person asked for it, or a recorded alarm. Unit: signals past their thresholds.

    The plan states ``cause``; unless that is "by hand", a version of kind ``trigger`` stands among its parents, and the
    facts of that are the alarm's.
    """

    kind: Literal["trigger_evidence"] = "trigger_evidence"

    min_signals: PositiveInt = 2
    """Fewest signals of the alarm."""

    def judge(self, evidence: Evidence) -> Finding:
        if str(evidence.fact("cause")) == BY_HAND:
            return Finding("green", "a person asked for it", None, self.min_signals, (evidence.artifact.digest,))
        leaves = evidence.ancestors[0]
        found = [digest for digest in evidence.artifact.parents if digest in leaves]
        triggers = [digest for digest in found if leaves[digest].statement.kind == "trigger"]
        if not triggers:
            raise EvidenceMissing(f"no trigger is behind {evidence.artifact.ref}: let the monitor publish it first")
        trigger = evidence.version("trigger", triggers[0])
        signals = list(evidence.fact("signals", of=trigger))
        holds = bool(evidence.fact("alarm", of=trigger)) and len(signals) >= self.min_signals
        reason = f"trigger {trigger.ref}: {', '.join(map(str, signals)) or 'no signal'} past the threshold"
        return Finding(passes(holds), reason, len(signals), self.min_signals, (trigger.digest,))


class CoolDown(Check):
    """A pause since the last plan of the same kind for the same release. Unit: minutes between the plans' leaves.

    The plan before stands among the plan's parents. A person may always ask: a plan "by hand" passes.
    """

    kind: Literal["cool_down"] = "cool_down"

    min_minutes: NonNegativeFloat
    """Shortest pause."""

    def judge(self, evidence: Evidence) -> Finding:
        plan, leaves = evidence.artifact, evidence.ancestors[0]
        if str(evidence.fact("cause")) == BY_HAND:
            return Finding("green", "a person asked for it", None, self.min_minutes, (plan.digest,))
        before = [leaves[digest] for digest in plan.parents if digest in leaves and _is_plan(leaves[digest])]
        if not before:
            return Finding("green", "it is the first plan for this release", None, self.min_minutes, (plan.digest,))
        last = max(before, key=lambda leaf: leaf.index).statement
        since = datetime.fromisoformat(leaves[plan.digest].statement.time) - datetime.fromisoformat(last.time)
        minutes = since.total_seconds() / 60
        reason = f"{minutes:.1f} minutes after the last plan for this release, {self.min_minutes:g} are asked for"
        holds = minutes >= self.min_minutes
        return Finding(passes(holds), reason, minutes, self.min_minutes, (plan.digest, last.subject))


class CheaperRungs(Check):
    """Before a deeper rung of the ladder, every cheaper one was measured on one suite. Unit: the best one's metric.

    Green when none of them surely meets the target; amber when one does, so that going deeper needs a person; red when
    one was not measured or on another suite.
    """

    kind: Literal["cheaper_rungs"] = "cheaper_rungs"

    metric: str = "exact_match"
    """Fact of the evaluations, with its interval, that decides."""

    target: Share = Field(default=0.8)
    """Quality at which there is no need to go deeper: reached by the interval's lower end."""

    def judge(self, evidence: Evidence) -> Finding:
        wanted = [str(rung) for rung in evidence.fact("cheaper")]
        measured = {rung: evidence.evaluation(rung) for rung in wanted}
        inputs = tuple(version.digest for version in measured.values())
        if len({evidence.suite_of(version).digest for version in measured.values()}) > 1:
            return Finding("red", "the cheaper rungs were measured on different suites", None, self.target, inputs)
        lows = {rung: float(evidence.fact(f"{self.metric}.low", of=version)) for rung, version in measured.items()}
        if not lows:
            return Finding("green", "there is no cheaper rung", None, self.target, inputs)
        best = max(lows, key=lambda rung: lows[rung])
        reason = f"{best} is the best cheaper rung: {self.metric} of at least {lows[best]:.3f}"
        met = lows[best] >= self.target
        reason += ", which meets the target: a person must want more" if met else ", short of the target"
        return Finding("amber" if met else "green", reason, lows[best], self.target, inputs)


def _is_plan(leaf: Leaf) -> bool:
    return leaf.statement.kind == PLAN
