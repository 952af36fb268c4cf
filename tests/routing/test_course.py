"""Who may answer a request: limits, conversation, void, waste and chance."""

import numpy as np
import pytest

from app.routing.course import Circumstances, set_course
from app.routing.limits import ModelCard
from app.routing.router import Cascade, Router
from tests.routing.made import foresight

RUNGS = ("small", "middle", "large")
CARDS = {
    "small": ModelCard(context_tokens=100, seconds_per_answer=0.1, chars_per_token=4),
    "large": ModelCard(seconds_per_answer=2.0),
}


def router(**more):
    return Router({}, Cascade({}, 1.0, None, None), **more)


@pytest.mark.parametrize(
    ("more", "allowed", "said"),
    [
        ({}, RUNGS, ""),
        ({"num_chars": 271}, RUNGS, ""),
        ({"num_chars": 273}, RUNGS[1:], "about 101 tokens, its context holds 100"),
        ({"deadline_s": 1.0}, RUNGS[:2], "it takes 2.00 s"),
        ({"floor": "middle"}, RUNGS[1:], "the conversation has gone on to middle"),
        ({"floor": "unknown"}, RUNGS, ""),
        ({"void": "drift"}, ("large",), "the guarantee is void: drift"),
        ({"void": "drift", "deadline_s": 1.0}, ("middle",), "the guarantee is void: drift"),
    ],
)
def test_who_may_answer(more, allowed, said):
    course = set_course(router(cards=CARDS), RUNGS, Circumstances(**more))
    assert (course.allowed, course.asked) == (allowed, allowed)
    assert said in "; ".join(course.left_out.values())
    assert set(course.allowed) | set(course.left_out) == set(RUNGS)


@pytest.mark.parametrize(("skip", "asked"), [(0.1, ("large",)), (0.3, ("small", "large"))])
def test_a_model_that_is_a_waste_is_not_asked_but_chance_may_put_it_in(skip, asked):
    known, qualities = router(foresight=foresight(skip=skip)), {"small": 0.7, "large": 0.9}
    course = set_course(known, ("small", "large"), Circumstances(explore=0.2, chance=0.05), qualities=qualities)
    assert (course.asked, course.drawn) == (asked, "small")
    assert course.propensities("large") == pytest.approx({"small": 0.1, "large": 0.9})
    assert set_course(known, ("small", "large"), Circumstances(void="x"), qualities={}).asked == ("large",)


def test_chance_deals_out_evenly_and_as_often_as_said():
    draws = np.random.default_rng(0).random(20_000)
    drawn = [set_course(None, RUNGS, Circumstances(explore=0.3, chance=each)).drawn for each in draws]
    assert {rung: drawn.count(rung) / len(drawn) for rung in RUNGS} == pytest.approx(
        dict.fromkeys(RUNGS, 0.1), abs=0.01
    )
    assert set_course(None, RUNGS[:1], Circumstances(explore=0.3, chance=0.0)).drawn == ""
    assert sum(set_course(None, RUNGS, Circumstances(explore=0.3)).propensities("large").values()) == pytest.approx(1)
