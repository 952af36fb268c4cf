"""The bound on the quality lost: how often it is broken, that it does not idle, and that a void one takes nothing."""

import numpy as np
import pytest

from app.routing.guarantee import guarantee, is_below, thresholds_of


def rows(draws, num, *, gap):
    """Scores, and losses whose mean is the score's ``gap``."""
    scores = draws.uniform(0, 1, num)
    large = draws.uniform(size=num) < 0.8
    lost = draws.uniform(size=num) < gap(scores)
    return scores, np.where(large & lost, 1.0, np.where(~large & (draws.uniform(size=num) < 0.2), -1.0, 0.0))


def test_it_is_seldom_broken_and_saves_calls():
    draws, laid_down = np.random.default_rng(0), np.linspace(0, 1, 101)
    truth_scores, truth = rows(np.random.default_rng(1), 200_000, gap=lambda scores: 0.4 * scores)
    broken, saved = [], []
    for _ in range(200):
        scores, losses = rows(draws, 1000, gap=lambda scores: 0.4 * scores)
        found = guarantee(scores, losses, thresholds=laid_down, tolerance=0.02, confidence=0.9)
        lost = np.where(truth_scores <= (found.threshold if found.threshold is not None else -1), truth, 0).mean()
        broken.append(lost > 0.02)
        saved.append(found.saved)
    assert np.mean(broken) <= 0.1
    assert np.mean(saved) > 0.25


@pytest.mark.parametrize("mean", [0.02, 0.05])
def test_a_mean_at_or_above_the_tolerance_is_seldom_called_below(mean):
    draws = np.random.default_rng(2)
    claimed = [is_below((draws.uniform(size=500) < mean).astype(float), 0.02, confidence=0.9) for _ in range(300)]
    assert np.mean(claimed) <= 0.1
    assert is_below(np.zeros(500), 0.02, confidence=0.9)
    assert not is_below(np.zeros(0), 0.02, confidence=0.9)


def test_a_small_model_that_is_always_worse_gets_nothing_and_one_as_good_gets_all():
    scores = np.random.default_rng(4).uniform(0, 1, 2000)
    laid_down = thresholds_of(scores)
    worse = guarantee(scores, np.ones(2000), thresholds=laid_down, tolerance=0.02)
    same = guarantee(scores, np.zeros(2000), thresholds=laid_down, tolerance=0.02)
    assert worse.saved < 0.02 < same.saved == 1.0
    assert (same.takes_small(0.5), worse.takes_small(0.5)) == (True, False)
    void = same.void("drift").void("later")
    assert (void.takes_small(0.0), void.void_because) == (False, "drift")
    assert void.to_json()["threshold"] == same.threshold
    nobody = guarantee(np.zeros(0), np.zeros(0), thresholds=laid_down, tolerance=0.02)
    assert (nobody.threshold, nobody.takes_small(-9.0)) == (None, False)


def test_losses_on_another_scale_are_refused():
    with pytest.raises(ValueError, match="scale the quality"):
        guarantee(np.zeros(2), np.array([0.0, 5.0]), thresholds=np.zeros(1), tolerance=0.02)
