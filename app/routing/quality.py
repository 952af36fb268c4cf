"""How good each model's answer to a prompt will be, learnt from recorded outcomes; routing compares the forecasts.

Method: a ridge regression (Hoerl and Kennard 1970) forecasts how easy a prompt is: the mean quality of all models,
which is far less noisy than a difference of two. Each model's quality is then a parabola of that ease, fitted on
cross-fitted forecasts: small models gain on easy prompts, and nobody on hopeless ones, so that the gap is widest in
between. What the parabola leaves is learnt by a ridge regression for each model. How much that counts, and the penalty,
are what forecast best on held-out folds. Where unseen groups are what is to come, folds keep groups together and both
are fixed: a few dozen groups choose by chance, and the penalty grows with the rows, as more rows of the same groups say
no more about others.

Guarantees: equal rows give equal numbers; a model read from its file forecasts without scikit-learn. Not guaranteed:
that a forecast is a probability: it is a linear one, and may leave 0 to 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
UNSEEN_SHARE, UNSEEN_PENALTY = 0.5, 2.0
"""For unseen groups; the penalty is for each row."""
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
        folds = _folds(len(quality), groups, seed)
        if groups is None:
            share, penalty = _chosen(features, quality, embedded, seed)
        else:
            share, penalty = UNSEEN_SHARE, UNSEEN_PENALTY * len(quality)
        return next(cls._fits(features, quality, embedded, folds, [penalty]))._counting(share)

    @classmethod
    def _fits(
        cls,
        features: "Floats",
        quality: "Floats",
        embedded: int,
        folds: "list[NDArray[np.int64]]",
        penalties: Sequence[float],
    ) -> "Iterator[Self]":
        """A fit for each penalty; what is each model's own counts whole."""
        import numpy as np

        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale[:embedded] = EMBEDDING_SCALE / max(embedded, 1) ** 0.5
        scale = np.where(scale > 1e-9, scale, 1.0)
        plain = _with_constant((features - mean) / scale)
        easy = quality.mean(axis=1, keepdims=True)
        whole = _products(plain, easy)
        parts = [(held, _products(plain[held], easy[held])) for held in folds]
        for penalty in penalties:
            forecast = np.zeros(len(quality))
            for held, part in parts:
                forecast[held] = plain[held] @ _solved(whole - part, penalty)[:, 0]
            curves = np.polyfit(forecast, quality, DEGREE)
            left = plain.T @ (quality - _parabola(curves, forecast))
            own = _solved(np.hstack([whole[:, : plain.shape[1]], left]), penalty)
            yield cls(mean, scale, _solved(whole, penalty)[:, 0], curves, own)

    def _counting(self, share: float) -> Self:
        """The same, with a share of what is each model's own."""
        return replace(self, own=share * self.own)

    def _split(self, features: "Floats") -> "tuple[Floats, Floats]":
        """What follows from the ease of prompts, and what is each model's own (n, models)."""
        plain = _with_constant((features - self.mean) / self.scale)
        return _parabola(self.curves, plain @ self.ease), plain @ self.own

    def forecast(self, features: "Floats") -> "Floats":
        """Expected quality (n, models) by features (n, d)."""
        shared, own = self._split(features)
        found: Floats = shared + own
        return found

    def save(self, folder: Path, name: str = QUALITY_FILE) -> Path:
        """Write ``quality.npz``, or a file of another name, into a folder."""
        import numpy as np

        path = folder / name
        np.savez(path, **vars(self))
        return path

    @classmethod
    def load(cls, folder: Path, name: str = QUALITY_FILE) -> Self:
        """Read what ``save`` wrote; OSError, KeyError or ValueError where it is missing or damaged."""
        import numpy as np

        with np.load(folder / name, allow_pickle=False) as stored:
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


def _chosen(features: "Floats", quality: "Floats", embedded: int, seed: int) -> tuple[float, float]:
    """The share and the penalty: the simplest whose squared error of differences between models, on held-out folds, is
    as good as the least.
    """
    import numpy as np

    errors = {each: np.zeros(len(quality)) for each in product(SHARES, PENALTIES)}
    for held in _folds(len(quality), None, seed):
        rest = np.setdiff1d(np.arange(len(quality)), held)
        inner, truth = _folds(len(rest), None, seed), _centred(quality[held])
        fits = Forecaster._fits(features[rest], quality[rest], embedded, inner, PENALTIES)
        for penalty, fitted in zip(PENALTIES, fits, strict=True):
            shared, own = fitted._split(features[held])
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


def _with_constant(features: "Floats") -> "Floats":
    import numpy as np

    return np.hstack([features, np.ones((len(features), 1))])


def _products(features: "Floats", targets: "Floats") -> "Floats":
    """What a ridge regression needs to know of rows (d, d + m): sums over rows, so that rows can be taken off again."""
    import numpy as np

    return features.T @ np.hstack([features, targets])


def _solved(products: "Floats", penalty: float) -> "Floats":
    """Weights (d, m) under a penalty; the last feature is the constant, which is free of it."""
    import numpy as np

    num = len(products)
    penalties = np.append(np.full(num - 1, penalty), 0.0)
    return np.linalg.solve(products[:, :num] + np.diag(penalties), products[:, num:]).astype(np.float64)


def _parabola(curves: "Floats", ease: "Floats") -> "Floats":
    import numpy as np

    found: Floats = np.stack([np.polyval(curve, ease) for curve in curves.T], axis=1)
    return found
