"""The router: what was learnt about a ladder of models, and the promise under which the cheaper ones answer.

Three parts, the last two from ``app.routing.learn``: a judge of answers (here), forecasts of how much better the last
model would answer (``foresight``), and a bound on the quality that is lost (``guarantee``). The judge is per model a
logistic regression for "this answer is right", and a threshold with a statistical promise. Whatever it refuses is not
sent by any model: the documents are quoted. A threshold is the lowest probability at which the Wilson lower bound
(Wilson 1927, one-sided) of the precision on the calibration rows reaches the target, both for the model alone and for
all that the cascade has answered up to it.
Probabilities on the calibration rows are cross-fitted, so no row is judged by a fit that saw it.

Guarantees: a router read from its files decides without scikit-learn and gives the same numbers; a file of a version
that only judges answers is still read. A model for which no
threshold keeps the promise accepts nothing, and an answer whose words stand in no passage found is never accepted,
however sure its model is. Not guaranteed: the precision on questions of another kind than those
of the calibration; the choice among several thresholds is not corrected for.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from app.core.errors import SignalboxError
from app.routing.features import FEATURE_NAMES, Features
from app.routing.foresight import Foresight, ForesightUnreadable
from app.routing.guarantee import Guarantee
from app.routing.limits import ModelCard
from app.routing.settings import RoutingSettings

ROUTER_FILE = "router.json"
FORMAT = 2
"""Of files with forecasts, cards or a guarantee; those that only judge answers name none."""
RUNGS = ("small", "large")


class RouterUnreadable(SignalboxError):
    """The router's file is not one that this version can read: calibrate a new router."""


@dataclass(frozen=True)
class Row:
    """One calibration row of one model; rows of all models stand in the same order."""

    features: Features
    correct: bool


@dataclass(frozen=True)
class Rung:
    """What was learnt about one model."""

    intercept: float
    weights: tuple[float, ...]
    threshold: float | None
    """Probability from which an answer is accepted; None: never."""
    num_rows: int
    num_correct: int
    coverage: float
    """Share of the calibration rows that the model alone would answer."""
    precision: float | None
    """Share of those that it answers rightly; None when it answers none."""
    precision_low: float | None
    """Wilson lower bound of that share."""

    def probability(self, features: Features) -> float:
        """P(correct) of an answer."""
        score = self.intercept + sum(w * x for w, x in zip(self.weights, features.vector(), strict=True))
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, score))))


@dataclass(frozen=True)
class Decision:
    """Whether an answer goes out, and how sure the router is of it."""

    confidence: float | None
    threshold: float | None
    accepted: bool
    gap: float | None = None
    """How much better the last model is expected to answer; None where nothing forecasts it."""


@dataclass(frozen=True)
class Cascade:
    """What the models together do on the calibration rows: the share each answers, and how often rightly."""

    shares: Mapping[str, float]
    coverage: float
    precision: float | None
    precision_low: float | None


@dataclass(frozen=True)
class Router:
    """Decides which answers are sure enough; build it with :meth:`fit`, :meth:`load` or :meth:`from_json`."""

    rungs: Mapping[str, Rung]
    cascade: Cascade
    foresight: Foresight | None = None
    guarantee: Guarantee | None = None
    cards: Mapping[str, ModelCard] = field(default_factory=dict)
    bound_to: Mapping[str, str] = field(default_factory=dict)
    """Digests of the models and of the index that the guarantee was made with, by ``small``, ``large``, ``index``."""
    abstains: bool = True
    """Whether an answer that the judge refuses is replaced by a quotation, the last model's too."""

    @classmethod
    def fit(cls, rows: Mapping[str, Sequence[Row]], *, settings: RoutingSettings) -> "Router":
        """Learn to judge from rows per model, cheapest first; every model's are of the same questions in one order.

        Raises:
            ValueError: there are no rows, or the models' rows are not of the same questions.
        """
        if not any(rows.values()) or len({len(of_rung) for of_rung in rows.values()}) != 1:
            raise ValueError("a router needs the same calibration rows for every model: at least one")
        rungs: dict[str, Rung] = {}
        answered: list[bool | None] = [None] * len(next(iter(rows.values())))
        shares: dict[str, float] = {}
        for name in rows:
            rungs[name], accepted = _fit_rung(rows[name], answered, settings)
            newly = [index for index, take in enumerate(accepted) if take and answered[index] is None]
            for index in newly:
                answered[index] = rows[name][index].correct
            shares[name] = len(newly) / len(answered)
        return cls(rungs, _summarise(answered, shares, settings))

    def decide(self, rung: str, features: Features, *, gap: float | None = None) -> Decision:
        """Whether the answer of a model goes out, as the judge sees it; one of a model that it does not know never."""
        known = self.rungs.get(rung)
        if known is None:
            return Decision(None, None, accepted=not self.abstains, gap=gap)
        confidence = known.probability(features)
        accepted = not self.abstains or _accepts(known.threshold, confidence, features)
        return Decision(confidence, known.threshold, accepted, gap)

    def suffices(self, gap: float | None) -> bool:
        """Whether the guarantee lets an answer of a cheaper model stand; it does where there is none."""
        return self.guarantee is None or (gap is not None and self.guarantee.takes_small(gap))

    @property
    def idle(self) -> bool:
        """Whether its guarantee lets no answer of a cheaper model stand, so that asking one is money lost."""
        return self.guarantee is not None and self.guarantee.threshold is None

    def mismatch(self, serving: Mapping[str, str]) -> str:
        """Why forecasts and guarantee do not hold for what serves, by the digests in ``bound_to``; else empty."""
        other = sorted(part for part, digest in self.bound_to.items() if serving.get(part) != digest)
        return f"it was calibrated with another {', '.join(other)} than the release has" if other else ""

    def to_json(self) -> dict[str, Any]:
        """The router as a JSON value, without the arrays of its forecasts."""
        rungs = {name: asdict(rung) | {"weights": list(rung.weights)} for name, rung in self.rungs.items()}
        judge = {"features": list(FEATURE_NAMES), "rungs": rungs, "cascade": asdict(self.cascade)}
        if self.foresight is None and self.guarantee is None and not self.cards and self.abstains:
            return judge
        return judge | {
            "format": FORMAT,
            "guarantee": self.guarantee.to_json() if self.guarantee else None,
            "cards": {rung: card.to_json() for rung, card in self.cards.items()},
            "bound_to": dict(self.bound_to),
            "abstains": self.abstains,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, folder: Path | None = None) -> "Router":
        """The router of a JSON value.

        Args:
            folder: where the arrays of its forecasts lie; None: it has no forecasts.

        Raises:
            RouterUnreadable: it was made for other features or by a later version, or it is none.
        """
        if not isinstance(value, Mapping) or list(value.get("features", ())) != list(FEATURE_NAMES):
            raise RouterUnreadable("the router was made for other features than this version's: calibrate a new router")
        if value.get("format", 1) not in (1, FORMAT):
            raise RouterUnreadable(
                f"the router's format is {value['format']!r}, this version reads up to {FORMAT}: upgrade"
            )
        try:
            rungs = {name: Rung(**{**rung, "weights": tuple(rung["weights"])}) for name, rung in value["rungs"].items()}
            return cls(
                rungs,
                Cascade(**value["cascade"]),
                Foresight.load(folder, value["foresight"]) if folder and value.get("foresight") else None,
                Guarantee.from_json(value["guarantee"]) if value.get("guarantee") else None,
                {rung: ModelCard.from_json(card) for rung, card in value.get("cards", {}).items()},
                dict(value.get("bound_to", {})),
                bool(value.get("abstains", True)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RouterUnreadable(f"the router is damaged ({error}): calibrate a new router") from error
        except ForesightUnreadable as error:
            raise RouterUnreadable(str(error)) from error

    def save(self, folder: Path) -> Path:
        """Write ``router.json`` into a folder, and the arrays of its forecasts beside it."""
        value, path = self.to_json(), folder / ROUTER_FILE
        if self.foresight:
            value |= {"foresight": self.foresight.save(folder)}
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path) -> "Router":
        """Read ``router.json`` from a folder; RouterUnreadable as for :meth:`from_json`."""
        try:
            return cls.from_json(json.loads((folder / ROUTER_FILE).read_text()), folder=folder)
        except (OSError, ValueError) as error:
            raise RouterUnreadable(f"the router in {folder} cannot be read: calibrate a new router") from error


def wilson_lower(num_right: int, num_total: int, *, confidence: float) -> float:
    """One-sided lower confidence bound of a share (Wilson 1927); 0 when nothing was counted."""
    if num_total == 0:
        return 0.0
    z = NormalDist().inv_cdf(confidence)
    share, spread = num_right / num_total, z * z / num_total
    margin = z * math.sqrt(share * (1 - share) / num_total + spread / (4 * num_total))
    return max(0.0, (share + spread / 2 - margin) / (1 + spread))


def choose_threshold(
    probabilities: Sequence[float], rows: Sequence[Row], answered: Sequence[bool | None], settings: RoutingSettings
) -> float | None:
    """The lowest threshold that keeps the promise, alone and together with what was ``answered`` before; else None."""
    best, right, total = None, 0, 0
    pooled = [outcome for outcome in answered if outcome is not None]
    pooled_right, pooled_total = sum(pooled), len(pooled)
    supported = [index for index, row in enumerate(rows) if row.features.supported]
    order = sorted(supported, key=lambda index: -probabilities[index])
    for position, index in enumerate(order):
        right, total = right + rows[index].correct, total + 1
        if answered[index] is None:
            pooled_right, pooled_total = pooled_right + rows[index].correct, pooled_total + 1
        if position + 1 < len(order) and probabilities[order[position + 1]] == probabilities[index]:
            continue
        bounds = ((right, total), (pooled_right, pooled_total))
        if all(wilson_lower(*pair, confidence=settings.confidence) >= settings.target_precision for pair in bounds):
            best = probabilities[index]
    return best


def _accepts(threshold: float | None, probability: float, features: Features) -> bool:
    """Sure enough, and grounded: the answer's words occur in a passage that was found."""
    return threshold is not None and probability >= threshold and bool(features.supported)


def _fit_rung(
    rows: Sequence[Row], answered: Sequence[bool | None], settings: RoutingSettings
) -> tuple[Rung, list[bool]]:
    intercept, weights = _regress(rows)
    probabilities = _cross_fit(rows, settings)
    threshold = choose_threshold(probabilities, rows, answered, settings)
    accepted = [
        _accepts(threshold, probability, row.features) for probability, row in zip(probabilities, rows, strict=True)
    ]
    right = sum(row.correct for row, take in zip(rows, accepted, strict=True) if take)
    total = sum(accepted)
    rung = Rung(
        intercept=intercept,
        weights=weights,
        threshold=threshold,
        num_rows=len(rows),
        num_correct=sum(row.correct for row in rows),
        coverage=total / len(rows),
        precision=right / total if total else None,
        precision_low=wilson_lower(right, total, confidence=settings.confidence) if total else None,
    )
    return rung, accepted


def _regress(rows: Sequence[Row]) -> tuple[float, tuple[float, ...]]:
    """Intercept and weights on the raw features; without both outcomes only the smoothed rate is learnt."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    outcomes = np.array([row.correct for row in rows])
    if outcomes.all() or not outcomes.any():
        rate = (outcomes.sum() + 1) / (len(rows) + 2)
        return math.log(rate / (1 - rate)), (0.0,) * len(FEATURE_NAMES)
    values = np.array([row.features.vector() for row in rows])
    means, scales = values.mean(axis=0), values.std(axis=0)
    scales[scales < 1e-9] = 1.0
    model = LogisticRegression(max_iter=1000).fit((values - means) / scales, outcomes)
    weights = model.coef_[0] / scales
    return float(model.intercept_[0] - weights @ means), tuple(float(weight) for weight in weights)


def _cross_fit(rows: Sequence[Row], settings: RoutingSettings) -> list[float]:
    """Each row's probability by a fit on the other folds; with fewer rows than folds, by the one fit on all."""
    num_folds = settings.num_folds if len(rows) >= settings.num_folds else 1
    probabilities = [0.0] * len(rows)
    for fold in range(num_folds):
        others = [row for index, row in enumerate(rows) if num_folds == 1 or index % num_folds != fold]
        rung = Rung(*_regress(others), None, 0, 0, 0.0, None, None)
        for index in range(fold, len(rows), num_folds):
            probabilities[index] = rung.probability(rows[index].features)
    return probabilities


def _summarise(answered: Sequence[bool | None], shares: Mapping[str, float], settings: RoutingSettings) -> Cascade:
    outcomes = [outcome for outcome in answered if outcome is not None]
    right, total = sum(outcomes), len(outcomes)
    return Cascade(
        shares=shares,
        coverage=total / len(answered),
        precision=right / total if total else None,
        precision_low=wilson_lower(right, total, confidence=settings.confidence) if total else None,
    )
