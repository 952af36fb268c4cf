"""benchmarks.routing on sums that a small model fails when they are long: a router finds them, chance does not."""

import pytest

from benchmarks._routing import Rows, Setup, folds_of, judge, made_up, with_features, worth
from benchmarks.routing import summed_up, table

NUM_KEPT = 16
HOW = {"tolerance": 0.05, "confidence": 0.9, "calibration": 200, "splits": 10, "cost_share": 0.5, "seed": 0}


@pytest.fixture(scope="module")
def judged():
    rows = made_up(0, num=360)
    setup = Setup.of(rows, prices={"a-small": 0.1, "b-large": 1.0}, small=None, large=None, **HOW)
    whole = with_features(rows, small=None)
    seen = Rows(rows, whole.features[:, whole.embedded - NUM_KEPT :], NUM_KEPT)  # little to solve
    pairs = folds_of(seen, num=5, known=False, seed=0)
    for learned, asked in pairs:
        assert not set(learned.outcomes.groups) & set(asked.outcomes.groups)
    return setup, [judge(*pair, setup=setup, known=False, num_parts=2) for pair in pairs[:2]]


def test_a_router_beats_chance_and_an_oracle_beats_the_router(judged):
    setup, parts = judged
    assert (setup.small, setup.large) == ("a-small", "b-large")
    found = summed_up(parts, seed=0)
    assert found["oracle"]["apgr"] > found["signalbox"]["apgr"] > found["random"]["apgr"] + 0.05
    assert found["guarantee"]["violated"] <= 0.2
    for text in ("| oracle |", "Guarantee: broken in", "APGR over length's"):
        assert text in table(found)


def test_the_price_of_a_point_keeps_to_the_limit():
    import numpy as np

    quality = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    prices = np.array([0.1, 1.0])
    value = worth(quality, quality, prices, limit=0.7)
    chosen = (quality - value * prices).argmax(axis=1)
    assert chosen.tolist() == [1, 0] * 50
    assert prices[(quality - worth(quality, quality, prices, limit=0.2) * prices).argmax(axis=1)].mean() <= 0.2
