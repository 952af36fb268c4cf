"""A threshold under which the quality lost against always asking the large model is bounded, with a finite sample.

Method: Learn then Test (Angelopoulos et al., arXiv 2110.01052): thresholds are tested in a fixed order, from few calls
saved to many, each by a betting test of "the mean loss is at least the tolerance" (Waudby-Smith and Ramdas,
arXiv 2010.09686, with Ville's inequality), and the first that is not rejected ends the sequence, so that no level is
spent on several tests. The loss of a row is paired: large's quality less small's where small would answer, else 0.
With more than two models the first, cheapest first, whose score is low enough answers. Calls that are dealt out by
chance, so that a router can be audited, lose quality as well: ``extra`` counts it.

Guarantees: over draws of calibration rows the mean loss of what is chosen is above the tolerance with probability at
most ``1 - confidence``, whatever the losses' distribution, if they lie within -1 and 1, the thresholds were laid down
before the rows were seen, and later questions are exchangeable with the calibration rows. Not guaranteed: anything
under a shift of topics or after a model was swapped: whoever sees one calls ``void``, and everything goes to the large
model until new rows are judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_THRESHOLDS = 100
LARGEST_BET = 0.75
"""Share of the capital that a bet may lose."""


@dataclass(frozen=True)
class Guarantee:
    """What was promised, from which rows, and whether it still holds."""

    tolerance: float
    """Quality that may be lost on average, on the scale of the quality (0.02: two points of accuracy)."""
    confidence: float
    threshold: float | None
    """Calls whose score is at most this go to the small model; None: all go to the large one."""
    num_rows: int
    saved: float
    """Share of the calibration rows that the small model would answer."""
    lost: float
    """Mean loss on the calibration rows."""
    void_because: str = ""
    """Why it no longer holds; empty while it does."""
    explored: float = 0.0
    """Share of calls that may be dealt out by chance; what they may lose is counted."""

    def takes_small(self, score: float) -> bool:
        """Whether a call may go to the small model; never once the guarantee is void."""
        return not self.void_because and self.threshold is not None and score <= self.threshold

    def void(self, reason: str) -> Self:
        """The same, no longer holding; the first reason stays."""
        return replace(self, void_because=self.void_because or reason)

    def to_json(self) -> dict[str, Any]:
        """The guarantee as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave; KeyError, TypeError or ValueError where it is none."""
        found = cls(**value)
        if not 0 < found.confidence < 1 or not -1 <= found.tolerance <= 1 or not 0 <= found.explored <= 1:
            raise ValueError("the guarantee's figures are out of range")
        return found


def thresholds_of(scores: "Floats", *, num: int = NUM_THRESHOLDS) -> "Floats":
    """Thresholds to test, ascending: quantiles of scores that are not the calibration rows'."""
    import numpy as np

    return np.unique(np.quantile(scores, np.linspace(0, 1, num + 1)))


def guarantee(
    scores: "Floats",
    losses: "Floats",
    *,
    thresholds: "Floats",
    tolerance: float,
    confidence: float = 0.95,
    explored: float = 0.0,
    extra: "Floats | float" = 0.0,
) -> Guarantee:
    """The largest threshold that the tests allow.

    Args:
        scores: of the calibration rows (n,): how much the large model is expected to be better; or (n, models) of all
            models but the largest, cheapest first. Infinite where a model may not answer.
        losses: large's quality less small's, shaped as the scores, -1 to 1; in the order in which rows came, or a
            random one.
        thresholds: ascending; laid down without these rows.
        explored: share of calls that are dealt out by chance.
        extra: what those lose on each row at most, (n,), whatever the threshold; the rest counts ``1 - explored``.

    Raises:
        ValueError: a loss lies outside -1 to 1, or rows and losses are not as many.
    """
    import numpy as np

    scores, losses = (each[:, None] if each.ndim == 1 else each for each in (scores, losses))
    if scores.shape != losses.shape or (losses.size and np.abs(losses).max() > 1):
        raise ValueError("a guarantee needs one loss per score, each within -1 and 1: scale the quality to 0 to 1")
    best: float | None = None
    for threshold in thresholds:
        lost = (1 - explored) * _lost(scores, losses, float(threshold))[0] + extra
        if not is_below(lost, tolerance, confidence=confidence):
            break
        best = float(threshold)
    lost, small = _lost(scores, losses, best)
    saved, mean = (float(each.mean()) if len(each) else 0.0 for each in (small, lost))
    return Guarantee(tolerance, confidence, best, len(scores), saved, mean, explored=explored)


def _lost(scores: "Floats", losses: "Floats", threshold: float | None) -> "tuple[Floats, NDArray[np.bool_]]":
    """Loss of each row under a threshold, and whether another model than the largest answers it."""
    import numpy as np

    if threshold is None or not len(scores):
        return np.zeros(len(scores)), np.zeros(len(scores), dtype=bool)
    takes = scores <= threshold
    answered = np.asarray(takes.any(axis=1))
    first = losses[np.arange(len(losses)), takes.argmax(axis=1)]
    return np.where(answered, first, 0.0), answered


def is_below(losses: "Floats", tolerance: float, *, confidence: float) -> bool:
    """Whether the mean of losses (n,) within -1 and 1 is shown to be below a tolerance.

    A gambler bets on it, row by row, with shares set by what was seen before (the predictable plug-in, their equation
    15); were the mean at the tolerance or above, he would reach 1 / (1 - confidence) times his capital with probability
    ``1 - confidence`` at most.
    """
    import numpy as np

    num = len(losses)
    if not num:
        return False
    seen = np.arange(1, num + 1)
    means = (0.0 + np.cumsum(losses)) / (seen + 1)
    squares = (0.25 + np.cumsum((losses - means) ** 2)) / (seen + 1)
    variance = np.concatenate([[0.25], squares[:-1]])
    bets = np.minimum(np.sqrt(2 * np.log(1 / (1 - confidence)) / (num * variance)), LARGEST_BET / (1 - tolerance))
    capital = np.cumsum(np.log1p(bets * (tolerance - losses)))
    return bool(capital.max() >= np.log(1 / (1 - confidence)))
