"""Intervals by the bootstrap, for means and for paired differences.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16; the percentile method.
Guarantees: the same values and seed give the same interval, on every machine of one numpy version.
Not guaranteed: coverage on a handful of rows, or where all rows are equal (the interval then has no width).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
