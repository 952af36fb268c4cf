"""The audit's estimators on logs whose truth is known: unbiased with propensities, wrong without them."""

from dataclasses import replace

import numpy as np
import pytest

from app.routing.audit import Logged, doubly_robust, estimate, ips, policies_of

MODELS = ("small", "large")
EXPLORE = 0.1


def simulate(num, *, seed, forecast=None):
    """Hard requests go to the large model, which is as good on all; the small one is bad on hard ones.

    Returns the log and the true mean reward of each policy.
    """
    draws = np.random.default_rng(seed)
    hard = draws.random(num) < 0.4
    means = np.stack([np.where(hard, 0.2, 0.9), np.full(num, 0.9)], axis=1)
    choices = np.stack([~hard, hard], axis=1).astype(float)
    propensities = (1 - EXPLORE) * choices + EXPLORE / 2
    used = (draws.random(num) < propensities[:, 1]).astype(int)
    rewards = (draws.random(num) < means[np.arange(num), used]).astype(float)
    truth = {"always-small": 0.4 * 0.2 + 0.6 * 0.9, "always-large": 0.9, "router": 0.9}
    expected = None if forecast is None else np.broadcast_to(np.array(forecast, dtype=float), means.shape)
    return Logged(MODELS, used, propensities, choices, rewards, expected), truth


@pytest.mark.parametrize("forecast", [None, (0.5, 0.5), (0.62, 0.9)])
@pytest.mark.parametrize("name", ["always-small", "always-large", "router"])
def test_ips_and_dr_are_unbiased_whatever_is_forecast(name, forecast):
    errors = {"ips": [], "dr": []}
    for seed in range(60):
        logged, truth = simulate(1000, seed=seed, forecast=forecast)
        policy = policies_of(logged)[name]
        errors["ips"].append(ips(logged, policy).mean() - truth[name])
        errors["dr"].append(doubly_robust(logged, policy).mean() - truth[name])
    for found in errors.values():
        assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found)) + 1e-9


def test_without_propensities_the_estimate_is_wrong():
    logged, truth = simulate(20_000, seed=0)
    flat = replace(logged, propensities=np.full_like(logged.propensities, 0.5))
    policy = policies_of(logged)["always-small"]
    assert ips(logged, policy).mean() == pytest.approx(truth["always-small"], abs=0.03)
    assert abs(ips(flat, policy).mean() - truth["always-small"]) > 0.2
    plain = logged.rewards[logged.used == 0].mean()
    assert plain - truth["always-small"] > 0.2
    assert abs(doubly_robust(flat, policy).mean() - truth["always-small"]) > 0.1


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = []
    for seed in range(20):
        logged, truth = simulate(800, seed=seed)
        found = estimate(logged, seed=seed)
        held += [found[name]["dr"]["low"] <= truth[name] <= found[name]["dr"]["high"] for name in truth]
        assert found["always-small"]["snips"]["low"] <= found["always-small"]["snips"]["value"]
    assert np.mean(held) > 0.87
    assert found["lost"]["dr"]["low"] < 0.05
    assert found["always-small"]["num_used"] < found["always-small"]["num_rows"] == 800


def test_rows_in_which_a_model_had_no_chance_are_left_out_and_counted():
    logged, _ = simulate(400, seed=3)
    void = np.arange(400) < 100
    propensities = np.where(void[:, None], [0.0, 1.0], logged.propensities)
    used = np.where(void, 1, logged.used)
    found = estimate(replace(logged, propensities=propensities, used=used))
    assert (found["always-small"]["num_left_out"], found["always-large"]["num_left_out"]) == (100, 0)
    nobody = estimate(logged.take(np.arange(0)))
    assert nobody["always-small"] == {"num_rows": 0, "num_left_out": 0, "num_used": 0, "effective_rows": 0.0}


@pytest.mark.parametrize("chances", [[0.5, 0.6], [1.5, -0.5], [0.0, 1.0]])
def test_propensities_that_are_none_are_refused(chances):
    logged = Logged(MODELS, np.array([0]), np.array([chances]), np.array([[1.0, 0.0]]), np.array([1.0]))
    with pytest.raises(ValueError, match="the propensities are none"):
        estimate(logged)
