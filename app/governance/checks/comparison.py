"""Figures of the candidate against thresholds, against production, and against everything promoted before.

Guarantees: no comparison is a bare ``new > old``; each has a confidence level and pairs the questions.
"""

from typing import Literal

from app.core.statistics import mcnemar_gain, paired_values
from app.governance.checks.base import Compared, Margin, Share
from app.governance.evidence import TARGET, Evidence, EvidenceMissing, Outcomes
from app.governance.findings import SEVERITY, Finding, Light, against


class MinMetric(Compared):
    """A metric reaches a threshold on a suite. Unit: the metric's own.

    Green when the bound reaches it; amber when only the estimate does. Source: Efron and Tibshirani (1993), chapter 13.
    """

    kind: Literal["min_metric"] = "min_metric"

    suite: str = TARGET
    """Label of the evaluation."""

    threshold: float
    """What is to be reached."""

    bound: Literal["low", "value"] = "low"
    """Whether the interval's lower end must reach it, or the estimate is enough."""

    def judge(self, evidence: Evidence) -> Finding:
        evaluation = evidence.evaluation(self.suite)
        interval = self.mean(evidence.outcomes(evaluation, self.metric))
        low = interval.low if self.bound == "low" else interval.value
        reason = f"{self.metric} on {self.suite}: {interval.shown()}, asked for is {self.threshold:.3f}"
        light = against(low, interval.value, self.threshold)
        return Finding(light, reason, low, self.threshold, (evaluation.digest,))


class NonInferior(Compared):
    """The candidate is not worse than production by more than a margin (paired bootstrap). Unit: the metric's own.

    Green when the interval's lower end stays within the margin; amber when only the estimate does.
    Source: Efron and Tibshirani (1993), chapter 16.
    """

    kind: Literal["non_inferior"] = "non_inferior"

    suite: str = TARGET
    """Label of both evaluations."""

    margin: Margin
    """Largest loss allowed."""

    def judge(self, evidence: Evidence) -> Finding:
        candidate = evidence.evaluation(self.suite)
        production = evidence.production.get(self.suite)
        if production is None:
            if evidence.earlier:
                raise EvidenceMissing(f"production was not evaluated on {self.suite!r}: evaluate it, then judge again")
            return Finding("green", "nothing is in production yet", None, -self.margin, (candidate.digest,))
        before, after = (evidence.outcomes(version, self.metric) for version in (production, candidate))
        change = self.change(before, after)
        reason = f"change in {self.metric} on {self.suite} against production: {change.shown(sign=True)}"
        inputs = (production.digest, candidate.digest)
        return Finding(against(change.low, change.value, -self.margin), reason, change.low, -self.margin, inputs)


class Improves(Compared):
    """The candidate answers a suite better than production does. Unit: the metric's own.

    Outcomes of 0 and 1 are judged by McNemar's exact test, others by the paired bootstrap. Green when the gain is sure
    at the confidence, amber when there is one that is not, red (or as ``no_gain`` says) when there is none. Source:
    McNemar (1947); Efron and Tibshirani (1993), chapter 16.
    """

    kind: Literal["improves"] = "improves"

    suite: str = TARGET
    """Label of both evaluations."""

    min_gain: Margin = 0.0
    """Smallest gain that counts."""

    no_gain: Literal["red", "amber"] = "red"
    """What no gain is; amber where a person may want the candidate all the same, as after a change of the documents."""

    def judge(self, evidence: Evidence) -> Finding:
        candidate = evidence.evaluation(self.suite)
        production = evidence.production.get(self.suite)
        if production is None:
            if evidence.earlier:
                raise EvidenceMissing(f"production was not evaluated on {self.suite!r}: evaluate it, then judge again")
            return Finding("green", "nothing is in production yet", None, self.min_gain, (candidate.digest,))
        before, after = (evidence.outcomes(version, self.metric) for version in (production, candidate))
        change = self.change(before, after)
        sure, how = self._surely_better(before, after, change.low)
        gains = change.value > 0 and change.value >= self.min_gain
        light: Light = self.no_gain if not gains else "green" if sure else "amber"
        reason = f"change in {self.metric} on {self.suite}: {change.shown(sign=True)}, {how}"
        return Finding(light, reason, change.value, self.min_gain, (production.digest, candidate.digest))

    def _surely_better(self, before: Outcomes, after: Outcomes, low: float) -> tuple[bool, str]:
        first, second = paired_values(before, after)
        if {*first, *second} <= {0.0, 1.0}:
            chance = mcnemar_gain(first, second)
            return chance <= 1 - self.confidence, f"by chance with p = {chance:.3g} (McNemar)"
        return low > 0, f"the lower bound is {low:+.3f}"


class ForgettingBudget(Compared):
    """The candidate keeps what was known, on every suite that an earlier promotion left behind. Unit: the metric's own.

    Each earlier evaluation is paired, question by question, with the candidate's outcomes on all its suites; questions
    that are no longer asked (their facts changed) are left out and counted. Green when each interval's lower end stays
    within the budget; amber when only the estimate does. Source: Lopez-Paz and Ranzato (2017), backward transfer.
    """

    kind: Literal["forgetting_budget"] = "forgetting_budget"

    budget: Margin
    """Largest loss allowed on any one suite."""

    min_coverage: Share = 0.8
    """Smallest share of an earlier suite's questions that must still be asked."""

    def judge(self, evidence: Evidence) -> Finding:
        pairs = self._pairs(evidence)
        if not pairs:
            return Finding("green", "no earlier promotion: nothing to forget", None, -self.budget)
        return min((self._judge(name, before, after, inputs) for name, before, after, inputs in pairs), key=_rank)

    def _judge(self, name: str, before: Outcomes, after: Outcomes, inputs: tuple[str, ...]) -> Finding:
        asked = {question for question, _ in after}
        coverage = sum(question in asked for question, _ in before) / len(before)
        if coverage < self.min_coverage:
            reason = f"only {coverage:.1%} of the questions of {name} were asked, not {self.min_coverage:.1%} or more"
            return Finding("red", reason, coverage, self.min_coverage, inputs)
        change = self.change(before, after)
        reason = f"worst change in {self.metric}, {name}: {change.shown(sign=True)} ({coverage:.1%} still asked)"
        return Finding(against(change.low, change.value, -self.budget), reason, change.low, -self.budget, inputs)

    def _pairs(self, evidence: Evidence) -> list[tuple[str, Outcomes, Outcomes, tuple[str, ...]]]:
        """Before and after, for earlier promotions' evaluations and for production on each regression suite."""
        pairs = []
        after_all = self._all_outcomes(evidence)
        for earlier in evidence.earlier:
            inputs = (earlier.digest, *(version.digest for version in evidence.candidate.values()))
            pairs.append((earlier.ref, evidence.outcomes(earlier, self.metric), after_all, inputs))
        for label, production in evidence.production.items():
            if label != TARGET:
                candidate = evidence.evaluation(label)
                before, after = (evidence.outcomes(version, self.metric) for version in (production, candidate))
                pairs.append((label, before, after, (production.digest, candidate.digest)))
        return pairs

    def _all_outcomes(self, evidence: Evidence) -> Outcomes:
        merged: dict[str, float] = {}
        for label in sorted(evidence.candidate):
            merged.update(evidence.outcomes(evidence.candidate[label], self.metric))
        return list(merged.items())


def _rank(finding: Finding) -> tuple[int, float]:
    """Worst first."""
    return -SEVERITY[finding.light], finding.figure if finding.figure is not None else 0.0
