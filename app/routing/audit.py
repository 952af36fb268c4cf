"""What other policies would have cost and been worth, estimated from a log whose choices were partly left to chance.

Estimators of a policy's mean reward from rows of (model used, its probability, reward): inverse propensity scores
(IPS; Horvitz and Thompson 1952), the same normalised by their weights (SNIPS; Swaminathan and Joachims 2015), and
doubly robust (DR; Dudik, Langford and Li 2011), which corrects a forecast of the rewards by IPS of what it misses.

Guarantees: IPS and DR are unbiased where propensities are true and every model that a policy uses had a chance; rows
where one had none are counted and left out of that policy. Intervals are bootstrap percentiles over rows. Not
guaranteed: intervals on a handful of explored rows; the number of rows that carry an estimate stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.core.statistics import Interval, bootstrap_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

NUM_RESAMPLES, CONFIDENCE, NUM_FOLDS = 1000, 0.95, 5
ROUTER = "router"


@dataclass(frozen=True)
class Logged:
    """Requests whose rewards are known. Models are columns, cheapest first."""

    models: tuple[str, ...]
    used: "Ints"
    """Column of the model used (n,)."""
    propensities: "Floats"
    """Probability of each model (n, models), given the request."""
    choices: "Floats"
    """The router's own policy (n, models): the probability with which it would use each model without exploring."""
    rewards: "Floats"
    """Of what was answered (n,)."""
    forecast: "Floats | None" = None
    """Expected reward of each model (n, models), made without these rewards; None: it is fitted here, in folds."""

    def __len__(self) -> int:
        return len(self.used)

    def take(self, rows: "NDArray[Any]") -> "Logged":
        """Some of the rows."""
        forecast = None if self.forecast is None else self.forecast[rows]
        used, rewards = self.used[rows], self.rewards[rows]
        return Logged(self.models, used, self.propensities[rows], self.choices[rows], rewards, forecast)


def policies_of(logged: Logged) -> "dict[str, Floats]":
    """The policies that are compared: always each model, and the router's own choices."""
    import numpy as np

    always = {f"always-{model}": np.eye(len(logged.models))[place] for place, model in enumerate(logged.models)}
    shape = logged.choices.shape
    return {name: np.broadcast_to(row, shape).astype(float) for name, row in always.items()} | {ROUTER: logged.choices}


def estimate(logged: Logged, *, seed: int = 0) -> dict[str, Any]:
    """Mean reward of every policy by every estimator, with intervals; and differences to the last always-policy.

    Raises:
        ValueError: a propensity is no probability, or the model used had none.
    """
    _check(logged)
    return {name: _of_policy(logged, policy, seed) for name, policy in policies_of(logged).items()} | {
        "lost": _difference(logged, seed)
    }


def ips(logged: Logged, policy: "Floats") -> "Floats":
    """Each row's contribution (n,); their mean is the estimate."""
    found: Floats = _weights(logged, policy) * logged.rewards
    return found


def doubly_robust(logged: Logged, policy: "Floats") -> "Floats":
    """Each row's contribution (n,): the forecast of the policy, corrected where the policy's model was used."""
    import numpy as np

    expected = logged.forecast if logged.forecast is not None else _fitted(logged)
    missed = logged.rewards - expected[np.arange(len(logged)), logged.used]
    found: Floats = (policy * expected).sum(axis=1) + _weights(logged, policy) * missed
    return found


def supported(logged: Logged, policy: "Floats") -> "NDArray[np.bool_]":
    """Rows in which every model that the policy may use had a chance (n,)."""
    import numpy as np

    return np.asarray(((policy <= 0) | (logged.propensities > 0)).all(axis=1))


def _of_policy(logged: Logged, policy: "Floats", seed: int) -> dict[str, Any]:

    kept = supported(logged, policy)
    rows, wanted = logged.take(kept), policy[kept]
    weights = _weights(rows, wanted)
    found: dict[str, Any] = {
        "num_rows": len(rows),
        "num_left_out": int((~kept).sum()),
        "num_used": int((weights > 0).sum()),
        "effective_rows": float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0,
    }
    if not len(rows):
        return found
    contributions = {"ips": ips(rows, wanted), "dr": doubly_robust(rows, wanted)}
    found |= {name: _mean(each, seed) for name, each in contributions.items()}
    if weights.any():
        found["snips"] = _ratio(rows.rewards * weights, weights, seed)
    return found


def _difference(logged: Logged, seed: int) -> dict[str, Any]:
    """Reward of always the last model less that of the router's own choices, row by row, doubly robust."""
    policies = policies_of(logged)
    last, own = policies[f"always-{logged.models[-1]}"], policies[ROUTER]
    kept = supported(logged, last) & supported(logged, own)
    rows = logged.take(kept)
    if not len(rows):
        return {"num_rows": 0}
    difference = doubly_robust(rows, last[kept]) - doubly_robust(rows, own[kept])
    return {"num_rows": len(rows), "dr": _mean(difference, seed)}


def _weights(logged: Logged, policy: "Floats") -> "Floats":
    import numpy as np

    rows = np.arange(len(logged))
    found: Floats = policy[rows, logged.used] / logged.propensities[rows, logged.used]
    return found


def _fitted(logged: Logged) -> "Floats":
    """Expected reward of each model (n, models): its mean where it was used, in the other folds, by propensity."""
    import numpy as np

    rows, found = np.arange(len(logged)), np.zeros((len(logged), len(logged.models)))
    weights = 1 / logged.propensities[rows, logged.used]
    for fold in range(NUM_FOLDS):
        held, others = rows % NUM_FOLDS == fold, rows % NUM_FOLDS != fold
        for model in range(len(logged.models)):
            mine = others & (logged.used == model)
            known = (weights * logged.rewards)[mine].sum() / weights[mine].sum() if mine.any() else 0.0
            found[held, model] = known
    return found


def _check(logged: Logged) -> None:
    import numpy as np

    chances = logged.propensities
    own = chances[np.arange(len(logged)), logged.used]
    if len(logged) and ((chances < 0).any() or not np.allclose(chances.sum(axis=1), 1, atol=1e-6) or (own <= 0).any()):
        raise ValueError("the propensities are none: each row's add up to 1, and the model used had a chance")


def _mean(values: "Floats", seed: int) -> dict[str, float]:
    return bootstrap_mean(values, confidence=CONFIDENCE, num_resamples=NUM_RESAMPLES, seed=seed).to_dict()


def _ratio(above: "Floats", below: "Floats", seed: int) -> dict[str, float]:
    """A ratio of sums over rows, rows drawn together."""
    import numpy as np

    draws, found = np.random.default_rng(seed), []
    for _ in range(NUM_RESAMPLES):
        rows = draws.integers(0, len(above), len(above))
        if total := below[rows].sum():
            found.append(above[rows].sum() / total)
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(above.sum() / below.sum()), float(low), float(high)).to_dict()


def grouped(keys: Sequence[str]) -> Mapping[str, "Ints"]:
    """Rows of each key, in the order of the keys."""
    import numpy as np

    names, codes = np.unique(np.array(keys, dtype=str), return_inverse=True)
    return {str(name): np.flatnonzero(codes == place) for place, name in enumerate(names)}
