"""Bootstrap intervals: what they hold, what they refuse."""

import numpy as np
import pytest

from app.core.statistics import bootstrap_mean, mcnemar_gain, paired_bootstrap, paired_values, wilson


def test_the_interval_holds_the_mean_and_narrows_with_rows():
    few, many = bootstrap_mean([0, 1] * 10), bootstrap_mean([0, 1] * 1000)
    assert few.low < few.value == many.value == 0.5 < few.high
    assert many.high - many.low < few.high - few.low
    assert many.high - many.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 2000), rel=0.15)


def test_a_seed_decides_the_interval():
    rows = np.random.default_rng(1).random(40)
    assert bootstrap_mean(rows, seed=3) == bootstrap_mean(rows, seed=3)
    assert bootstrap_mean(rows, seed=3) != bootstrap_mean(rows, seed=4)


def test_pairing_is_what_makes_the_difference_sharp():
    noise = np.random.default_rng(2).random(200)
    paired = paired_bootstrap(noise, noise + 0.05)
    assert paired.value == pytest.approx(0.05)
    assert paired.high - paired.low < 1e-9
    shuffled = paired_bootstrap(noise, np.random.default_rng(3).permutation(noise + 0.05))
    assert shuffled.high - shuffled.low > 0.05


def test_the_sign_says_who_is_better():
    assert paired_bootstrap([0, 0, 1], [1, 1, 1]).value > 0 > paired_bootstrap([1, 1, 1], [0, 0, 1]).value


def test_coverage_is_near_the_confidence():
    random = np.random.default_rng(5)
    inside = 0
    for seed in range(200):
        interval = bootstrap_mean(random.random(60) < 0.7, confidence=0.9, num_resamples=300, seed=seed)
        inside += interval.low <= 0.7 <= interval.high
    assert 165 <= inside <= 195


@pytest.mark.parametrize(
    "bad",
    [
        lambda: bootstrap_mean([]),
        lambda: bootstrap_mean([[1.0]]),
        lambda: bootstrap_mean([1.0], confidence=1.0),
        lambda: bootstrap_mean([1.0], num_resamples=0),
        lambda: paired_bootstrap([1.0], [1.0, 2.0]),
        lambda: paired_values([("a", 1.0)], [("b", 1.0)]),
        lambda: paired_values([("a", 1.0), ("a", 1.0)], [("a", 1.0)]),
    ],
)
def test_what_cannot_be_resampled_is_refused(bad):
    with pytest.raises(ValueError, match=r"\w+"):
        bad()


def test_rows_are_paired_by_id():
    first, second = paired_values([("b", 1.0), ("a", 0.0), ("x", 9.0)], [("a", 0.5), ("b", 0.25)])
    assert first.tolist() == [0.0, 1.0]
    assert second.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("hits", "num", "low", "high"), [(0, 20, 0.0, 0.161), (20, 20, 0.839, 1.0), (81, 263, 0.255, 0.366)]
)
def test_wilson_keeps_a_width_at_the_ends(hits, num, low, high):
    """The last one is the example of Newcombe (Statistics in Medicine, 1998)."""
    interval = wilson(hits, num)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize(("hits", "num", "confidence"), [(1, 0, 0.9), (3, 2, 0.9), (-1, 2, 0.9), (1, 2, 1.0)])
def test_wilson_refuses_what_is_no_share(hits, num, confidence):
    with pytest.raises(ValueError, match="a share needs"):
        wilson(hits, num, confidence=confidence)


@pytest.mark.parametrize(
    ("won", "lost", "chance"), [(0, 0, 1.0), (5, 0, 1 / 32), (0, 5, 1.0), (3, 1, 5 / 16), (2, 2, 11 / 16)]
)
def test_mcnemar_counts_the_rows_that_differ(won, lost, chance):
    before, after = [0] * won + [1] * lost + [1, 0], [1] * won + [0] * lost + [1, 0]
    assert mcnemar_gain(before, after) == pytest.approx(chance)


def test_mcnemar_is_for_yes_or_no():
    with pytest.raises(ValueError, match="0 or 1"):
        mcnemar_gain([0.5], [1.0])
    with pytest.raises(ValueError, match="0 or 1"):
        mcnemar_gain([0, 1], [1])
