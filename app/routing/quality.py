"""How good each model's answer to a prompt will be, learnt from recorded outcomes; routing compares the forecasts.

Method: a ridge regression (Hoerl and Kennard 1970) forecasts how easy a prompt is: the mean quality of all models,
which is far less noisy than a difference of two. Each model's quality is then a parabola of that ease, fitted on
cross-fitted forecasts: small models gain on easy prompts, and nobody on hopeless ones, so that the gap is widest in
between. What the parabola leaves is learnt by a ridge regression for each model, and counts by the share that forecast
best on held-out folds: little on kinds of prompts that were never seen, more on known ones. Folds keep groups together
where unseen groups are what is to come.

Guarantees: equal rows give equal numbers; a model read from its file forecasts without scikit-learn. Not guaranteed:
that a forecast is a probability: it is a linear one, and may leave 0 to 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.core.errors import SignalboxError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

QUALITY_FILE = "quality.npz"
PENALTIES = (10000.0, 3000.0, 1000.0, 300.0)
SHARES = (0.0, 0.5, 1.0)
"""From the simplest to the richest, as the penalties."""
DEGREE, NUM_FOLDS = 2, 5
EMBEDDING_SCALE = 3.0
"""A number of an embedding, which says little by itself, counts a third of a feature that was read off the text."""


class TooFewOutcomes(SignalboxError):
    """There are too few recorded outcomes to learn from: log more answers, or give more rows."""


@dataclass(frozen=True)
class Forecaster:
    """Numbers about prompts (n, features) to the expected quality of each model (n, models)."""

    mean: "Floats"
    scale: "Floats"
    ease: "Floats"
    """Weights of the ease of a prompt (features + 1), the constant last."""
    curves: "Floats"
    """Of each model, the parabola of its quality over the ease, highest power first (3, models)."""
    own: "Floats"
    """Weights of what is each model's own (features + 1, models), its share counted in."""

    @classmethod
    def fit(
        cls,
        features: "Floats",
        quality: "Floats",
        *,
        embedded: int = 0,
        groups: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from quality (n, models) by features (n, d).

        Args:
            embedded: so many features, the first, are an embedding of unit length.
            groups: of each row, where rows of unseen groups are to be forecast; None: rows as those given.

        Raises:
            TooFewOutcomes: there are fewer rows, or groups, than folds.
        """
        share, penalty = _chosen(features, quality, embedded, groups, seed)
        return cls._fit(features, quality, embedded, _folds(len(quality), groups, seed), penalty, share)

    @classmethod
    def _fit(
        cls,
        features: "Floats",
        quality: "Floats",
        embedded: int,
        folds: "list[NDArray[np.int64]]",
        penalty: float,
        share: float,
    ) -> Self:
        import numpy as np

        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale[:embedded] = EMBEDDING_SCALE / max(embedded, 1) ** 0.5
        scale = np.where(scale > 1e-9, scale, 1.0)
        plain = (features - mean) / scale
        easy = quality.mean(axis=1, keepdims=True)
        forecast = np.zeros(len(quality))
        for held in folds:
            rest = np.setdiff1d(np.arange(len(quality)), held)
            forecast[held] = _applied(plain[held], _ridge(plain[rest], easy[rest], penalty))[:, 0]
        curves = np.polyfit(forecast, quality, DEGREE)
        left = quality - _parabola(curves, forecast)
        own = share * _ridge(plain, left, penalty) if share else np.zeros((plain.shape[1] + 1, quality.shape[1]))
        return cls(mean, scale, _ridge(plain, easy, penalty)[:, 0], curves, own)

    def forecast(self, features: "Floats") -> "Floats":
        """Expected quality (n, models) by features (n, d)."""
        plain = (features - self.mean) / self.scale
        found: Floats = _parabola(self.curves, _applied(plain, self.ease)) + _applied(plain, self.own)
        return found

    def save(self, folder: Path) -> Path:
        """Write ``quality.npz`` into a folder."""
        import numpy as np

        path = folder / QUALITY_FILE
        np.savez(path, **vars(self))
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote; OSError, KeyError or ValueError where it is missing or damaged."""
        import numpy as np

        with np.load(folder / QUALITY_FILE, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in cls.__dataclass_fields__})


def cross_forecast(
    features: "Floats", quality: "Floats", *, embedded: int = 0, groups: Sequence[str] | None = None, seed: int = 0
) -> "Floats":
    """Of each row, the forecast (n, models) by a fit that did not see its fold."""
    import numpy as np

    found = np.zeros_like(quality)
    for held in _folds(len(quality), groups, seed):
        rest = np.setdiff1d(np.arange(len(quality)), held)
        known = [groups[row] for row in rest] if groups is not None else None
        fitted = Forecaster.fit(features[rest], quality[rest], embedded=embedded, groups=known, seed=seed)
        found[held] = fitted.forecast(features[held])
    return found


def _chosen(
    features: "Floats", quality: "Floats", embedded: int, groups: Sequence[str] | None, seed: int
) -> tuple[float, float]:
    """The share and the penalty: the simplest whose squared error of differences between models, on held-out folds, is
    as good as the least.
    """
    import numpy as np

    errors = {each: np.zeros(len(quality)) for each in product(SHARES, PENALTIES)}
    for held in _folds(len(quality), groups, seed):
        rest = np.setdiff1d(np.arange(len(quality)), held)
        known = [groups[row] for row in rest] if groups is not None else None
        inner, truth = _folds(len(rest), known, seed), _centred(quality[held])
        for penalty in PENALTIES:
            whole = Forecaster._fit(features[rest], quality[rest], embedded, inner, penalty, 1.0)
            shared = _parabola(whole.curves, _applied((features[held] - whole.mean) / whole.scale, whole.ease))
            own = whole.forecast(features[held]) - shared
            for share in SHARES:
                errors[share, penalty][held] = ((_centred(shared + share * own) - truth) ** 2).sum(axis=1)
    best = min(errors.values(), key=lambda each: float(each.mean()))
    return next(each for each in errors if _as_good(errors[each], best))


def _as_good(errors: "Floats", best: "Floats") -> bool:
    """Whether the mean is within a standard error of the best one's, row by row (Breiman et al. 1984)."""
    worse = errors - best
    return bool(worse.mean() <= worse.std() / len(worse) ** 0.5)


def _centred(quality: "Floats") -> "Floats":
    centred: Floats = quality - quality.mean(axis=1, keepdims=True)
    return centred


def _folds(num: int, groups: Sequence[str] | None, seed: int) -> "list[NDArray[np.int64]]":
    return list(_dealt(num, groups, seed))


def _dealt(num: int, groups: Sequence[str] | None, seed: int) -> "Iterator[NDArray[np.int64]]":
    """Rows of each fold, ascending; whole groups where there are groups."""
    import numpy as np

    _, codes = np.unique(groups if groups is not None else np.arange(num), return_inverse=True)
    different = int(codes.max(initial=-1)) + 1
    if different < NUM_FOLDS:
        raise TooFewOutcomes(f"{different} rows or groups of rows are too few to learn from: give {NUM_FOLDS} at least")
    fold_of = np.random.default_rng(seed).permutation(different) % NUM_FOLDS
    for fold in range(NUM_FOLDS):
        yield np.flatnonzero(fold_of[codes] == fold)


def _ridge(features: "Floats", targets: "Floats", penalty: float) -> "Floats":
    """Weights (d + 1, m), the constant last and free of the penalty."""
    import numpy as np

    centre, middle = features.mean(axis=0), targets.mean(axis=0)
    shifted = features - centre
    gram = shifted.T @ shifted
    gram[np.diag_indices_from(gram)] += penalty
    weights = np.linalg.solve(gram, shifted.T @ (targets - middle))
    found: Floats = np.vstack([weights, middle - centre @ weights])
    return found


def _applied(features: "Floats", weights: "Floats") -> "Floats":
    found: Floats = features @ weights[:-1] + weights[-1]
    return found


def _parabola(curves: "Floats", ease: "Floats") -> "Floats":
    import numpy as np

    found: Floats = np.stack([np.polyval(curve, ease) for curve in curves.T], axis=1)
    return found
