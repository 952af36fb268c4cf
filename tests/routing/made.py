"""Forecasters and routers made by hand, for tests of what they decide."""

import numpy as np

from app.routing.foresight import Foresight
from app.routing.quality import Forecaster

EMBEDDED = 384
BEFORE, AFTER = EMBEDDED + 62, EMBEDDED + 84


def forecaster(size, levels, *, feature=None, slope=0.0):
    """Forecasts ``levels``, one per model; the first model's falls by ``slope`` times a feature."""
    own = np.zeros((size + 1, len(levels)))
    own[-1] = levels
    if feature is not None:
        own[feature, 0] = -slope
    return Forecaster(np.zeros(size), np.ones(size), np.zeros(size + 1), np.zeros((3, len(levels))), own)


def foresight(*, small=0.7, large=0.9, after=0.85, skip=1.0, weak=-1.0):
    """Of a small and a large model: expected qualities, small's after its answer, and the gap from which it is left."""
    before = forecaster(BEFORE, [small, large])
    return Foresight(
        ("small", "large"), before, {"small": forecaster(AFTER, [after, large])}, {"small": skip}, (), weak
    )
