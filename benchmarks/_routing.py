"""How ``benchmarks.routing`` learns and judges: features, forecasts, splits of the guarantee, choice among models."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from app.core.progress import progress
from app.inference.encoder import Encoder
from app.monitoring.drift import ks_threshold
from app.routing.curves import apgr, cpt, gap_recovered
from app.routing.guarantee import Guarantee, guarantee, thresholds_of
from app.routing.outcomes import BadOutcomes, Outcomes
from app.routing.prompts import answer_features, prompt_features
from app.routing.quality import Forecaster, cross_forecast

Floats = NDArray[np.float64]
AT_ONCE = 256
MARGIN = 0.9
"""Of the cost allowed, what is planned on the training rows."""
NUM_PRICES = 200
KINDS = ("apples", "coins", "tiles", "miles", "words", "seats", "pages", "stars", "boats", "hours", "votes", "bricks")
DRIFT_COMPONENTS, DRIFT_RATE, WINDOW = 8, 0.05, 300


@dataclass(frozen=True)
class Setup:
    """What all folds share."""

    small: str
    large: str
    prices: Mapping[str, float]
    tolerance: float
    confidence: float
    calibration: int
    splits: int
    cost_share: float
    seed: int

    @classmethod
    def of(
        cls, rows: Outcomes, *, prices: Mapping[str, float], small: str | None, large: str | None, **rest: Any
    ) -> Self:
        """Choose the pair: the best model, and the best of those that are cheaper, or that are left without prices.

        Raises:
            BadOutcomes: there are no two models, or one that is named is not among them.
        """
        rows.of([model for model in (small, large) if model])
        if len(rows.models) < 2 or (small and small == large):
            raise BadOutcomes(f"routing needs two models, not {', '.join(rows.models[:1])} alone: give scores of both")
        means = dict(zip(rows.models, rows.quality.mean(axis=0), strict=True))
        best = large or max((model for model in means if model != small), key=lambda model: means[model])
        cheaper = [model for model in means if model != best and prices.get(model, 0) < prices.get(best, 1)]
        second = small or max(cheaper or [model for model in means if model != best], key=lambda model: means[model])
        return cls(second, best, {model: prices[model] for model in rows.models if model in prices}, **rest)

    def params(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


@dataclass(frozen=True)
class Judged:
    """A router's scores on rows that it did not see."""

    scores: Mapping[str, Floats]
    small: Floats
    large: Floats
    guarantee: dict[str, float]
    models: dict[str, float]

    def __len__(self) -> int:
        return len(self.small)

    def figures(self, name: str) -> dict[str, float]:
        """APGR and CPT of a score."""
        return self._figures[name]

    @cached_property
    def _figures(self) -> dict[str, dict[str, float]]:
        found = {name: gap_recovered(scores, self.small, self.large) for name, scores in self.scores.items()}
        return {
            name: {"apgr": apgr(each), "cpt50": cpt(each, 0.5), "cpt80": cpt(each, 0.8)} for name, each in found.items()
        }

    def over_length(self, rows: NDArray[np.int64]) -> float:
        """APGR of the router less that of length, on some rows."""
        small, large = self.small[rows], self.large[rows]
        if not large.mean() > small.mean():
            return 0.0
        ours, length = (gap_recovered(self.scores[name][rows], small, large) for name in ("signalbox", "length"))
        return apgr(ours) - apgr(length)


@dataclass(frozen=True)
class Rows:
    """Outcomes with the features of their prompts, (n, d); the first ``embedded`` of them are an embedding."""

    outcomes: Outcomes
    features: Floats
    embedded: int

    @property
    def embeddings(self) -> Floats:
        """Of the prompts, (n, embedded)."""
        return self.features[:, : self.embedded]

    def take(self, places: NDArray[np.int64]) -> "Rows":
        """Some of the rows."""
        return Rows(self.outcomes.take(places), self.features[places], self.embedded)


def with_features(rows: Outcomes, *, small: str | None) -> Rows:
    """Embed the prompts, read off what can be read, and off the small model's answers if there are any."""
    encoder, parts = Encoder(), []
    with progress("embed prompts", len(rows)) as bar:
        for start in range(0, len(rows), AT_ONCE):
            parts.append(encoder.encode(rows.prompts[start : start + AT_ONCE]))
            bar.advance(len(parts[-1]))
    read = [prompt_features(rows.prompts)]
    if small:
        read.append(answer_features(rows.prompts, rows.answers[small]))
    return Rows(rows, np.hstack([np.vstack(parts).astype(np.float64), *read]), encoder.dim)


def folds_of(rows: Rows, *, num: int, known: bool, seed: int) -> list[tuple[Rows, Rows]]:
    """Rows to learn from and rows to judge on, ``num`` times; whole groups unless they are known."""
    if not known and len(set(rows.outcomes.groups)) < num:
        raise BadOutcomes(f"prompts of {num} groups at least are needed (`subject`, `task`): pass --known, or --test")
    _, codes = np.unique(
        np.arange(len(rows.features)) if known else np.array(rows.outcomes.groups), return_inverse=True
    )
    fold_of = np.random.default_rng(seed).permutation(int(codes.max()) + 1) % num
    held = [fold_of[codes] == fold for fold in range(num)]
    return [(rows.take(np.flatnonzero(~each)), rows.take(np.flatnonzero(each))) for each in held]


def judge(train: Rows, test: Rows, *, setup: Setup, known: bool, num_parts: int) -> Judged:
    """Learn from some rows, judge on the others."""
    pair, asked = (setup.small, setup.large), test.outcomes
    groups = None if known or set(train.outcomes.groups) & set(asked.groups) else train.outcomes.groups
    how: dict[str, Any] = {"embedded": train.embedded, "groups": groups, "seed": setup.seed}
    two = train.outcomes.of(pair).quality
    scores = _gap(Forecaster.fit(train.features, two, **how).forecast(test.features))
    small, large = asked.of(pair).quality.T
    length = np.array([float(len(prompt)) for prompt in asked.prompts])
    chance = np.random.default_rng(setup.seed).random(len(length))
    laid_down = thresholds_of(_gap(cross_forecast(train.features, two, **how)))
    return Judged(
        {"signalbox": scores, "length": length, "random": chance, "oracle": large - small},
        small,
        large,
        promises(scores, large - small, test, laid_down, setup, num_parts),
        _several(train, test, how, setup) if len(asked.models) > 2 and setup.prices else {},
    )


def _gap(forecast: Floats) -> Floats:
    """How much better the second model is expected to be."""
    gap: Floats = forecast[:, 1] - forecast[:, 0]
    return gap


def promises(
    scores: Floats, losses: Floats, rows: Rows, laid_down: Floats, setup: Setup, num_parts: int
) -> dict[str, float]:
    """How often the guarantee is broken and what it saves: on splits at random, and by group, where topics shift.

    After a shift by group, drift is looked for in the first requests; where it is found, the guarantee is void.
    """
    draws, found = np.random.default_rng(setup.seed), []
    size, num = min(setup.calibration, len(scores) // 2), max(1, setup.splits // num_parts)
    for _ in range(num):
        order = draws.permutation(len(scores))
        given, later = order[:size], order[size:]
        outcome = _outcome(_promised(scores, losses, given, laid_down, setup), scores[later], losses[later])
        found.append((*outcome, drifted(rows.embeddings[given], rows.embeddings[later][:WINDOW])))
    violated, saved, alarms = (float(each) for each in np.mean(found, axis=0))
    shifted, voided = _shifted(scores, losses, rows, laid_down, setup, num, draws)
    return {
        "violated": violated, "saved": saved, "false_alarms": alarms, "shifted_violated": shifted,
        "shifted_violated_voided": voided, "calibration_rows": float(size),
    }  # fmt: skip


def _promised(scores: Floats, losses: Floats, given: NDArray[np.int64], laid_down: Floats, setup: Setup) -> Guarantee:
    how: dict[str, Any] = {"tolerance": setup.tolerance, "confidence": setup.confidence}
    return guarantee(scores[given], losses[given], thresholds=laid_down, **how)


def _outcome(promised: Guarantee, scores: Floats, losses: Floats) -> tuple[bool, float]:
    small = np.array([promised.takes_small(float(score)) for score in scores])
    return bool(np.where(small, losses, 0.0).mean() > promised.tolerance), float(small.mean())


def _shifted(
    scores: Floats,
    losses: Floats,
    rows: Rows,
    laid_down: Floats,
    setup: Setup,
    num: int,
    draws: np.random.Generator,
) -> tuple[float, float]:
    """Share of splits by group in which the guarantee is broken: as it stands, and where drift voids it."""
    names, codes = np.unique(rows.outcomes.groups, return_inverse=True)
    if len(names) < 2:
        return 0.0, 0.0
    broken, still = 0, 0
    for _ in range(num):
        mine = draws.permutation(len(names))[: len(names) // 2]
        given, later = np.flatnonzero(np.isin(codes, mine)), np.flatnonzero(~np.isin(codes, mine))
        promised = _promised(scores, losses, draws.permutation(given)[: setup.calibration], laid_down, setup)
        broken += _outcome(promised, scores[later], losses[later])[0]
        if drifted(rows.embeddings[given], rows.embeddings[draws.permutation(later)[:WINDOW]]):
            promised = promised.void("the prompts drifted")
        still += _outcome(promised, scores[later], losses[later])[0]
    return broken / num, still / num


def drifted(reference: Floats, window: Floats) -> bool:
    """Whether a principal component of prompts' embeddings moved, as the monitor's embedding signal tests it."""
    from scipy.stats import ks_2samp
    from sklearn.decomposition import PCA

    num = min(DRIFT_COMPONENTS, len(reference))
    pca = PCA(num, random_state=0).fit(reference)
    before, now = pca.transform(reference), pca.transform(window)
    limit = ks_threshold(DRIFT_RATE / num, num_reference=len(before), num_window=len(now))
    return any(ks_2samp(before[:, part], now[:, part]).statistic > limit for part in range(num))


def _several(train: Rows, test: Rows, how: Mapping[str, Any], setup: Setup) -> dict[str, float]:
    """Accuracy and cost of choosing among all models, as shares of the best single one's."""
    learned, quality = train.outcomes.quality, test.outcomes.quality
    prices = np.array([setup.prices[model] for model in train.outcomes.models])
    best = int(learned.mean(axis=0).argmax())
    seen = cross_forecast(train.features, learned, **how)
    value = worth(seen, learned, prices, limit=setup.cost_share * float(prices[best]))
    forecast = Forecaster.fit(train.features, learned, **how).forecast(test.features)
    chosen = (forecast - value * prices).argmax(axis=1)
    lengths = np.array([float(len(prompt)) for prompt in test.outcomes.prompts])
    alone = quality[:, best].mean()
    return {
        "accuracy_vs_best": float(quality[np.arange(len(quality)), chosen].mean() / alone),
        "cost_vs_best": float(prices[chosen].mean() / prices[best]),
        "cost_by_prompt_length_vs_best": float((prices[chosen] * lengths).sum() / (prices[best] * lengths.sum())),
        "oracle_vs_best": float(quality.max(axis=1).mean() / alone),
    }


def worth(forecast: Floats, quality: Floats, prices: Floats, *, limit: float) -> float:
    """Quality that a unit of price must buy: of those that keep calls within the limit, the one that pays best."""
    rows, tried = np.arange(len(quality)), np.linspace(0, 1 / max(np.ptp(prices), 1e-9), NUM_PRICES)
    choices = [(forecast - value * prices).argmax(axis=1) for value in tried]
    allowed = [place for place, each in enumerate(choices) if prices[each].mean() <= MARGIN * limit]
    return float(tried[max(allowed or [NUM_PRICES - 1], key=lambda place: quality[rows, choices[place]].mean())])


def made_up(seed: int, num: int = 1200) -> Outcomes:
    """Sums of two to six figures: the small model fails the long ones, both fail the longest."""
    draws = np.random.default_rng(seed)
    prompts, quality, groups = [], [], []
    for row in range(num):
        count = int(draws.integers(2, 7))
        figures = draws.integers(1, 999, count)
        kind = KINDS[row % len(KINDS)]
        prompts.append(f"How many {kind} are {' + '.join(map(str, figures))}? Show the steps." + " Think." * count)
        chances = (0.95 - 0.2 * max(0, count - 3), 0.97 - 0.25 * max(0, count - 5))
        quality.append([float(draws.random() < chance) for chance in chances])
        groups.append(kind)
    return Outcomes(tuple(prompts), ("a-small", "b-large"), np.array(quality), tuple(groups), {})
