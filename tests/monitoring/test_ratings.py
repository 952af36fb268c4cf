"""Ratings as a signal: an alarm where they become worse, and none, however often one looks, where they do not."""

import math
import random

import pytest
from sqlalchemy import insert

from app.core.schema import feedback
from app.monitoring.monitor import Monitor, monitor_status
from app.monitoring.ratings import bad_ratings, evidence, feedback_figure
from app.monitoring.settings import MonitorSettings
from tests.monitoring.conftest import make_rows
from tests.monitoring.test_monitor import FakeJobs

SETTINGS = MonitorSettings()


def rate(registry, release, scores, *, first=0):
    rows = [
        {"asked_by": f"{release}-{number}", "request_id": f"r{number}", "release": release, "score": score}
        | {"comment": "", "answer": "", "updated_at": f"2026-11-22T09:{number // 60:02}:{number % 60:02}.000000Z"}
        for number, score in enumerate(scores, first)
    ]
    with registry.database.engine.begin() as connection:
        connection.execute(insert(feedback), rows)


def test_the_evidence_is_the_mean_gain_of_bets_on_every_higher_share():
    steps = 20_000
    shares = [0.3 + 0.7 * (number + 0.5) / steps for number in range(steps)]
    mean = sum((share / 0.3) ** 7 * ((1 - share) / 0.7) ** 5 for share in shares) / steps
    assert evidence(7, 12, 0.3) == pytest.approx(math.log(mean), rel=1e-6)
    assert evidence(0, 0, 0.3) == pytest.approx(0.0)
    assert math.isfinite(evidence(0, 100_000, 0.001))
    assert math.isfinite(evidence(100_000, 100_000, 0.001))


def test_looked_at_after_every_rating_it_seldom_cries_wolf():
    draws, rate_, num = random.Random(0), 0.05, 400
    cried = 0
    for _ in range(num):
        num_bad = 0
        for given in range(1, 101):
            num_bad += draws.random() < 0.3
            if evidence(num_bad, given, 0.3) > math.log(1 / rate_):
                cried += 1
                break
    assert cried <= 2 * rate_ * num


@pytest.mark.parametrize(
    ("first", "later", "alarm"),
    [(2, [True] * 12, True), (2, [True, False] * 3, False), (2, [False] * 200, False), (15, [True] * 6, False)],
)
def test_when_ratings_are_an_alarm(first, later, alarm):
    bad = [True] * first + [False] * (20 - first) + later
    assert feedback_figure(bad, settings=SETTINGS).alarm is alarm


@pytest.mark.parametrize("bad", [[], [True] * 20, [True] * 40])
def test_where_there_is_nothing_to_compare_there_is_no_figure(bad):
    assert feedback_figure(bad, settings=SETTINGS) is None


def test_ratings_are_those_of_one_release_in_their_order(registry):
    rate(registry, "sha256:b", [1.0, 0.49, 0.5, 0.0])
    rate(registry, "sha256:a", [0.0] * 3)
    assert bad_ratings(registry.database, "sha256:b") == [False, True, False, True]


def test_ratings_that_become_worse_make_an_alarm_where_one_signal_is_enough(registry, settings, release, log):
    log(make_rows(160, release=release.digest))
    rate(registry, release.digest, [1.0] * 20 + [0.0] * 15)
    watched = settings.model_copy(update={"release": release.digest, "min_signals": 1})
    Monitor(registry=registry, settings=watched, jobs=FakeJobs(), holder="a").tick()
    (window,) = monitor_status(registry)["windows"]
    assert (window["alarm"], window["signals"]) == (True, ["feedback"])
    assert window["figures"][-1]["measure"] == "log_evidence"
    (trigger,) = monitor_status(registry)["triggers"]
    assert trigger["reason"]["signals"] == ["feedback"]
