"""Outcomes of models that fail hard questions more often, with signs of it before and after they answer."""

import numpy as np

from app.routing.features import Features
from app.routing.sample import Row, Sample

EMBEDDED = 3


def simulate(num, *, seed=0, rungs=("small", "large"), shift=0.0, supported=1.0, far=0.0):
    """``shift``: a share of the cheaper models' answers that are wrong whatever the signs say, as after a drift.

    ``far``: a share of questions of which the documents say nothing, so that nobody is right and nothing near is found.
    """
    draws, rows = np.random.default_rng(seed), []
    strengths = np.linspace(0.45, 0.95, len(rungs))
    for number in range(num):
        hard = draws.random()
        quality = [float(draws.random() < (1.0 if hard < strength else 0.15)) for strength in strengths]
        is_far = draws.random() < far
        quality = [0.0] * len(rungs) if is_far else quality
        near = draws.random() * 0.2 + (0.1 if is_far else 0.5)
        seen = [*(draws.normal(size=EMBEDDED) / 3), hard + draws.normal() * 0.1, draws.normal(), near, 0.1, near]
        said = [-0.1 - 1.5 * (1 - right) + draws.normal() * 0.3 for right in quality]
        if draws.random() < shift:
            quality[:-1] = [0.0] * (len(rungs) - 1)
        rows.append(
            Row(
                row_id=f"r{number:05}",
                source="simulated",
                before=seen,
                after=[[*seen, each, 2 * each] for each in said],
                judged=[Features(each, 2 * each, 0.7, supported, 8.0) for each in said],
                quality=quality,
                tokens=[20.0] * len(rungs),
            )
        )
    return Sample(tuple(rungs), tuple(rows), EMBEDDED)
