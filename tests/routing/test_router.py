import json
import random
from dataclasses import replace

import pytest

from app.routing.features import Features
from app.routing.router import Router, RouterUnreadable, Row, choose_threshold, wilson_lower
from app.routing.settings import RoutingSettings

SETTINGS = RoutingSettings()


def make_rows(num_rows, *, seed=0, noise=0.0, rate=0.6):
    """Rows whose right answers are surer and supported; ``noise`` is the share for which that is a lie."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        correct = rng.random() < rate
        looks_right = correct if rng.random() >= noise else not correct
        logprob = rng.gauss(-0.1 if looks_right else -1.0, 0.1)
        features = Features(logprob, 2 * logprob, rng.uniform(0.4, 0.9), float(looks_right), rng.randint(4, 14))
        rows.append(Row(features, correct))
    return rows


SURE = Features(-0.05, -0.1, 0.7, 1.0, 8.0)
UNSURE = Features(-1.5, -3.0, 0.7, 0.0, 8.0)


@pytest.mark.parametrize(
    ("right", "total", "low"), [(0, 0, 0.0), (0, 10, 0.0), (10, 10, 0.787), (95, 100, 0.9008), (300, 300, 0.9911)]
)
def test_wilson_lower_bound(right, total, low):
    assert wilson_lower(right, total, confidence=0.95) == pytest.approx(low, abs=2e-3)


def test_a_good_signal_is_learnt():
    router = Router.fit({"small": make_rows(300)}, settings=SETTINGS)
    small = router.rungs["small"]
    assert router.decide("small", SURE).accepted
    assert not router.decide("small", UNSURE).accepted
    assert small.precision_low >= 0.9
    assert 0.5 < small.coverage < 0.7
    assert router.cascade.precision == small.precision


def test_a_signal_that_lies_is_not_trusted():
    router = Router.fit({"small": make_rows(300, noise=0.5)}, settings=SETTINGS)
    assert router.rungs["small"].threshold is None
    assert not router.decide("small", SURE).accepted
    assert router.cascade.coverage == 0.0
    assert router.cascade.precision is None


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_one_outcome_only(rate):
    router = Router.fit({"small": make_rows(100, rate=rate)}, settings=SETTINGS)
    decision = router.decide("small", SURE)
    assert decision.accepted is bool(rate)
    assert decision.confidence == pytest.approx(101 / 102 if rate else 1 / 102)


def test_few_rows_promise_nothing():
    router = Router.fit({"small": make_rows(4, rate=1.0)}, settings=SETTINGS)
    assert router.rungs["small"].threshold is None


def test_the_large_model_gets_what_the_small_one_left():
    small, large = make_rows(300, rate=0.5), make_rows(300, rate=0.9, seed=1)
    router = Router.fit({"small": small, "large": large}, settings=SETTINGS)
    assert router.cascade.shares["small"] == pytest.approx(0.5, abs=0.1)
    assert router.cascade.shares["large"] > 0.3
    assert router.cascade.precision_low >= 0.9
    assert router.cascade.coverage == pytest.approx(sum(router.cascade.shares.values()))


def test_the_threshold_is_the_lowest_that_keeps_the_promise():
    rows = [Row(SURE, index < 90) for index in range(120)]
    probabilities = [1 - index / 200 for index in range(120)]
    threshold = choose_threshold(probabilities, rows, [None] * 120, SETTINGS)
    accepted = [p for p in probabilities if p >= threshold]
    right = min(90, len(accepted))
    assert wilson_lower(right, len(accepted), confidence=0.9) >= 0.9
    assert wilson_lower(90, len(accepted) + 1, confidence=0.9) < 0.9


def test_equal_probabilities_stand_or_fall_together():
    rows = [Row(SURE, index < 50) for index in range(100)]
    assert choose_threshold([0.9] * 100, rows, [None] * 100, SETTINGS) is None


def test_an_earlier_model_that_erred_makes_the_next_one_stricter():
    rows = [Row(SURE, True)] * 50 + [Row(SURE, False)] * 50
    probabilities = [0.9] * 50 + [0.1] * 50
    wrong_before: list[bool | None] = [None] * 50 + [False] * 50
    assert choose_threshold(probabilities, rows, [None] * 100, SETTINGS) == 0.9
    assert choose_threshold(probabilities, rows, wrong_before, SETTINGS) is None


def test_an_unknown_model_is_never_sure():
    router = Router.fit({"small": make_rows(50)}, settings=SETTINGS)
    decision = router.decide("large", SURE)
    assert (decision.confidence, decision.accepted) == (None, False)


def test_saved_and_read_again(tmp_path):
    router = Router.fit({"small": make_rows(200), "large": make_rows(200, seed=3)}, settings=SETTINGS)
    router.save(tmp_path)
    again = Router.load(tmp_path)
    assert again == router
    assert again.decide("large", UNSURE) == router.decide("large", UNSURE)


def test_other_features_are_refused(tmp_path):
    path = Router.fit({"small": make_rows(50)}, settings=SETTINGS).save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features": ["length"]}))
    with pytest.raises(RouterUnreadable, match="calibrate"):
        Router.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rungs": {}}', None])
def test_a_damaged_file_is_named(tmp_path, text):
    path = Router.fit({"small": make_rows(50)}, settings=SETTINGS).save(tmp_path)
    path.write_text(text) if text is not None else path.unlink()
    with pytest.raises(RouterUnreadable, match="calibrate"):
        Router.load(tmp_path)


@pytest.mark.parametrize("part", ["rungs", "cascade"])
def test_a_router_without_a_part_is_named(part):
    value = Router.fit({"small": make_rows(50)}, settings=SETTINGS).to_json()
    with pytest.raises(RouterUnreadable, match="damaged"):
        Router.from_json({name: each for name, each in value.items() if name != part})


@pytest.mark.parametrize("rows", [{}, {"small": []}, {"small": make_rows(5), "large": make_rows(4)}])
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(ValueError, match="calibration rows"):
        Router.fit(rows, settings=SETTINGS)


def test_an_answer_that_no_passage_supports_is_never_accepted():
    router = Router.fit({"small": make_rows(300)}, settings=SETTINGS)
    unsupported = Features(SURE.mean_logprob, SURE.min_logprob, SURE.retrieval_score, 0.0, SURE.num_question_words)
    lenient = Router({"small": replace(router.rungs["small"], threshold=0.0)}, router.cascade)
    assert lenient.decide("small", SURE).accepted
    assert not lenient.decide("small", unsupported).accepted
