"""How a training went."""

import math
from typing import Literal

from app.governance.checks.base import Check, Share
from app.governance.evidence import Evidence, EvidenceMissing
from app.governance.findings import Finding, passes

CURVE_FILE = "loss.parquet"
"""A model's table of its training, with a column ``loss``."""


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
        reason = f"loss went from {first:.3f} to {last:.3f}"
        holds = drop > 0 and drop >= self.min_drop
        return Finding(passes(holds), reason, drop, self.min_drop, (evidence.artifact.digest,))


class FiniteLoss(Check):
    """No loss along the training's curve is infinite or not a number. Unit: points of the curve that are.

    As the model's facts state it; where they do not, its table of the curve is read.
    """

    kind: Literal["finite_loss"] = "finite_loss"

    fact: str = "train.num_losses_not_finite"
    """Fact that counts them."""

    def judge(self, evidence: Evidence) -> Finding:
        try:
            num = int(evidence.fact(self.fact))
        except EvidenceMissing:
            num = self._count(evidence)
        reason = f"{num} points of the loss curve are not finite"
        return Finding(passes(not num), reason, num, 0, (evidence.artifact.digest,))

    def _count(self, evidence: Evidence) -> int:
        losses = [row["loss"] for row in evidence.rows(evidence.artifact, table=CURVE_FILE)]
        if not losses:
            raise EvidenceMissing(f"the loss curve of {evidence.artifact.ref} is empty: train it for a step at least")
        return sum(loss is None or not math.isfinite(loss) for loss in losses)
