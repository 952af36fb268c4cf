"""How good a routing score is: the quality that calls to the large model buy, between all small and all large.

Source: Ong et al., RouteLLM (arXiv 2406.18665), section 3: the performance gap recovered (PGR) at 11 shares of calls,
its area (APGR, trapezoid), and the share of calls at which a PGR is first reached (CPT). Guarantees: ties are broken by
the rows' order, so that equal scores give equal figures. Not guaranteed: that APGR stays below 1: where the small model
is right and the large one wrong, a good router beats both.
"""

from typing import TYPE_CHECKING

from app.core.errors import SignalboxError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_POINTS = 11


class NoGap(SignalboxError, ValueError):
    """The large model is no better than the small one on these rows: name the models the other way round, or others."""


def gap_recovered(scores: "Floats", small: "Floats", large: "Floats") -> "Floats":
    """PGR (11,) with 0, 10 … 100% of the calls at the large model: those with the highest scores (n,).

    Raises:
        NoGap: the large model is no better than the small one.
    """
    import numpy as np

    gap = large.mean() - small.mean()
    if not gap > 0:
        raise NoGap("the large model is not better than the small one on these rows, so there is no gap: name others")
    order = np.argsort(-scores, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum((large - small)[order])]) / len(scores)
    places = np.round(np.linspace(0, len(scores), NUM_POINTS)).astype(int)
    recovered: Floats = gained[places] / gap
    return recovered


def apgr(recovered: "Floats") -> float:
    """The area under the gap recovered, 0.5 for calls dealt out at random."""
    import numpy as np

    return float(np.trapezoid(recovered, dx=1 / (len(recovered) - 1)))


def cpt(recovered: "Floats", share: float) -> float:
    """The share of calls, 0 to 1, at which a share of the gap is first recovered, between points by a straight line."""
    import numpy as np

    first = int(np.argmax(recovered >= share))
    if first == 0:
        return 0.0 if recovered[0] >= share else 1.0
    below, above = recovered[first - 1], recovered[first]
    return float((first - 1 + (share - below) / (above - below)) / (len(recovered) - 1))
