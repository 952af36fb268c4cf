"""Intervals by the bootstrap, for means and for paired differences; Wilson's interval and McNemar's test for yes or no.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16; the percentile method.
Guarantees: the same values and seed give the same interval, on every machine of one numpy version.
Not guaranteed: the bootstrap's coverage on a handful of rows, or where all rows are equal (its interval then has no
width; Wilson's has one).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

BATCH_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """``{"value", "low", "high"}``, as facts and reports hold it."""
        return asdict(self)

    def shown(self, *, sign: bool = False) -> str:
        """The interval for people: ``0.812 [0.761, 0.858]``, with a plus before gains when ``sign`` is set."""
        form = "+.3f" if sign else ".3f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def bootstrap_mean(a: ArrayLike, *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of ``a`` with its two-sided percentile interval.

    Raises:
        ValueError: ``a`` is empty or not one-dimensional, or a setting is out of range.
    """
    values = _checked(a, confidence, num_resamples)
    means = _resampled_means(values, num_resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of ``b - a`` over rows answered by both, with its two-sided percentile interval; rows stay paired.

    Args:
        a: outcomes of the one (production), by row.
        b: outcomes of the other (candidate), in the same order.

    Raises:
        ValueError: the lengths differ, or as for ``bootstrap_mean``.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired outcomes must be of one length, not {first.shape} and {second.shape}")
    return bootstrap_mean(second - first, confidence=confidence, num_resamples=num_resamples, seed=seed)


def wilson(num_hits: int, num: int, *, confidence: float = 0.95) -> Interval:
    """A share of ``num`` yes-or-no outcomes with its two-sided score interval; it keeps a width at 0 and at 1.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (JASA, 1927).

    Raises:
        ValueError: there is no outcome, more hits than outcomes, or ``confidence`` is out of range.
    """
    if not 0 <= num_hits <= num or not num or not 0 < confidence < 1:
        raise ValueError("a share needs outcomes, no more hits than outcomes, and a confidence between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_hits / num
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def difference(before: Interval, after: Interval) -> Interval:
    """``after - before`` of two independent estimates, from their own intervals of one confidence.

    Source: Newcombe, Interval estimation for the difference between independent proportions (Statistics in Medicine,
    1998), method 10; for other estimates Zou and Donner (Statistics in Medicine, 2008).
    """
    value = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return Interval(value, value - below, value + above)


def mcnemar_gain(a: ArrayLike, b: ArrayLike) -> float:
    """Chance of so many rows won by ``b``, or more, if each row where the two differ were a coin's toss (one-sided).

    Args:
        a: outcomes 0 or 1 of the one (production), by row.
        b: outcomes of the other (candidate), in the same order.

    Source: McNemar (Psychometrika, 1947), in its exact, binomial form.

    Raises:
        ValueError: the lengths differ, or an outcome is neither 0 nor 1.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or not np.isin([*first, *second], (0.0, 1.0)).all():
        raise ValueError("McNemar's test needs as many outcomes of either, each 0 or 1")
    won, lost = int((second > first).sum()), int((second < first).sum())
    tails = sum(math.comb(won + lost, k) for k in range(won, won + lost + 1))
    return float(tails / 2 ** (won + lost))


def paired_values(
    a: Sequence[tuple[str, float]], b: Sequence[tuple[str, float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outcomes of the rows that both have, sorted by row id.

    Raises:
        ValueError: they share no row, or an id comes twice.
    """
    first, second = dict(a), dict(b)
    if len(first) < len(a) or len(second) < len(b):
        raise ValueError("a row id comes twice: outcomes can only be paired by unique ids")
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ValueError("no row is answered by both: evaluate both on the same suite")
    return np.array([first[row] for row in shared]), np.array([second[row] for row in shared])


def _checked(a: ArrayLike, confidence: float, num_resamples: int) -> NDArray[np.float64]:
    values = np.asarray(a, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected a row of at least one outcome, not an array of shape {values.shape}")
    if not 0 < confidence < 1 or num_resamples < 1:
        raise ValueError("confidence must lie between 0 and 1, and num_resamples be at least 1")
    return values


def _resampled_means(
    values: NDArray[np.float64], num_resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Means of resamples, drawn in batches of bounded memory."""
    batch = max(1, BATCH_VALUES // len(values))
    sizes = [min(batch, num_resamples - start) for start in range(0, num_resamples, batch)]
    means = [values[random.integers(0, len(values), (size, len(values)))].mean(axis=1) for size in sizes]
    return np.concatenate(means)
