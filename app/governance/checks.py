"""The checks that a policy may list. One small class each: what it measures, its unit, its source.

Guarantees: a class that derives from ``Check`` is known to policies by its ``kind``; nothing else has to be touched.
Every check is a pure function of the evidence: no time, no chance (seeds are settings).
Not guaranteed: that a policy's thresholds are wise.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from app.core.settings import Settings
from app.core.statistics import Interval, bootstrap_mean, paired_bootstrap, paired_values
from app.governance.evidence import TARGET, Evidence, EvidenceMissing, Outcomes
from app.governance.findings import Finding, against

Share = Annotated[float, Field(ge=0, le=1)]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]
Margin = Annotated[float, Field(ge=0)]


class Check(Settings):
    """One typed check of a policy. A subclass is known by the default of its field ``kind``."""

    known: ClassVar[dict[str, type["Check"]]] = {}

    kind: str
    """Which check this is."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Make the new check known to policies."""
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):
            Check.known[kind] = cls

    def judge(self, evidence: Evidence) -> Finding:
        """The finding; EvidenceMissing when something to judge by is not there."""
        raise NotImplementedError


class _Compared(Check):
    """A check by a resampled interval."""

    metric: str = "exact_match"
    """Column of the evaluation's rows."""

    confidence: Confidence = 0.95
    """Of the two-sided bootstrap interval."""

    num_resamples: PositiveInt = 2000
    """Bootstrap resamples."""

    seed: NonNegativeInt = 0
    """Of the resampling, so that a replay gives the same bounds."""

    def mean(self, outcomes: Outcomes) -> Interval:
        """Mean outcome with its interval."""
        values = [value for _, value in outcomes]
        return bootstrap_mean(values, confidence=self.confidence, num_resamples=self.num_resamples, seed=self.seed)

    def change(self, before: Outcomes, after: Outcomes) -> Interval:
        """Mean change over the questions that both answered, with its interval."""
        try:
            first, second = paired_values(before, after)
        except ValueError as error:
            raise EvidenceMissing(str(error)) from error
        return paired_bootstrap(
            first, second, confidence=self.confidence, num_resamples=self.num_resamples, seed=self.seed
        )


class MinRows(Check):
    """Enough rows to learn from. Unit: rows, as the artifact's facts state them."""

    kind: Literal["min_rows"] = "min_rows"

    fact: str = "num_rows"
    """Which of the artifact's facts counts the rows."""

    minimum: PositiveInt
    """Fewest rows allowed."""

    def judge(self, evidence: Evidence) -> Finding:
        rows = int(evidence.fact(self.fact))
        light: Literal["green", "red"] = "green" if rows >= self.minimum else "red"
        reason = f"{rows} {self.fact}, at least {self.minimum} are asked for"
        return Finding(light, reason, rows, self.minimum, (evidence.artifact.digest,))


class MaxRejectedShare(Check):
    """Not too much was rejected on the way. Unit: share of everything that was read."""

    kind: Literal["max_rejected_share"] = "max_rejected_share"

    accepted: str = "num_rows"
    """Fact that counts what was kept."""

    rejected: str = "num_rejected"
    """Fact that counts what was rejected."""

    maximum: Share
    """Largest share allowed."""

    def judge(self, evidence: Evidence) -> Finding:
        accepted, rejected = int(evidence.fact(self.accepted)), int(evidence.fact(self.rejected))
        share = rejected / (accepted + rejected) if accepted + rejected else 1.0
        light: Literal["green", "red"] = "green" if share <= self.maximum else "red"
        reason = f"{rejected} of {accepted + rejected} rejected ({share:.1%}), at most {self.maximum:.1%} may be"
        return Finding(light, reason, share, self.maximum, (evidence.artifact.digest,))


class LossImproves(Check):
    """Training's loss is finite and fell. Unit: relative drop from the first to the last loss."""

    kind: Literal["loss_improves"] = "loss_improves"

    first: str = "train.loss_first"
    """Fact with the loss at the start."""

    last: str = "train.loss_last"
    """Fact with the loss at the end."""

    min_drop: Share = 0.0
    """Smallest relative drop; 0 asks for any drop at all."""

    def judge(self, evidence: Evidence) -> Finding:
        first, last = float(evidence.fact(self.first)), float(evidence.fact(self.last))
        drop = 1 - last / first if math.isfinite(first) and math.isfinite(last) and first > 0 else -1.0
        light: Literal["green", "red"] = "green" if drop > 0 and drop >= self.min_drop else "red"
        reason = f"loss went from {first:.3f} to {last:.3f}"
        return Finding(light, reason, drop, self.min_drop, (evidence.artifact.digest,))


class MinMetric(_Compared):
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


class NonInferior(_Compared):
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


class ForgettingBudget(_Compared):
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


class CompleteLineage(Check):
    """Everything the artifact was made from is in the ledger, down to its sources. Unit: parents that are not."""

    kind: Literal["complete_lineage"] = "complete_lineage"

    sources: tuple[str, ...] = ("dataset",)
    """Kinds, each of which must be among the ancestors."""

    def judge(self, evidence: Evidence) -> Finding:
        found, unknown = evidence.ancestors
        kinds = {leaf.statement.kind for leaf in found.values()}
        absent = [kind for kind in self.sources if kind not in kinds]
        inputs = (evidence.artifact.digest,)
        if unknown:
            reason = f"{len(unknown)} parents are not in the ledger, first {unknown[0]}"
            return Finding("red", reason, len(unknown), 0, inputs)
        if absent:
            return Finding("red", f"no {' and no '.join(absent)} among its ancestors", len(absent), 0, inputs)
        return Finding("green", f"all {len(found)} versions behind it are in the ledger", 0, 0, inputs)


class Approvals(Check):
    """Enough people approved: n of m, none of them the trainer. Unit: approvals. Judged at promotion."""

    kind: Literal["approvals"] = "approvals"

    required: PositiveInt = 1
    """n: approvals by different keys and different persons."""

    roles: tuple[Literal["approver", "reviewer", "auditor"], ...] = ("approver",)
    """Roles whose signature counts."""

    of: tuple[str, ...] = ()
    """m: key names (``approver/jane``) that may approve; empty: every key of the roles."""

    meaning: str = "approved for production"
    """What the signature must say."""

    def judge(self, evidence: Evidence) -> Finding:
        reason = f"{self.required} approval(s) by {' or '.join(self.roles)}, never the trainer: judged at promotion"
        return Finding("pending", reason, None, self.required)


def _rank(finding: Finding) -> tuple[int, float]:
    """Worst first."""
    order = {"red": 0, "amber": 1, "green": 2, "pending": 3}
    return order[finding.light], finding.figure if finding.figure is not None else 0.0
