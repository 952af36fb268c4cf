import asyncio
from dataclasses import replace

import pytest

from app.inference.conversation import Conversation
from app.inference.sampling import Sampling
from app.serving.cascade import answer, cost_large_only_usd, cost_usd
from tests.serving.conftest import make_release


def ask(backends, *, release=None, requested="signalbox"):
    release = release or make_release()
    asked = {"requested": requested, "rungs": release.rungs_for(requested), "backends": backends}
    return asyncio.run(
        answer(Conversation.of("What is the fee?"), release=release, top_k=4, sampling=Sampling(), **asked)
    )


@pytest.mark.parametrize(
    ("small", "large", "route", "model", "num_tried"),
    [
        ("2000 euros", "", "small", "small@3", 1),
        ("3000 euros", "2,000 euros", "large", "large@3", 2),
        ("3000 euros", "4000 euros", "extractive", "extractive", 2),
        ("", " ", "extractive", "extractive", 2),
    ],
)
def test_the_cheapest_that_is_sure_enough_answers(backends, small, large, route, model, num_tried):
    backends.texts = {"small": small, "large": large}
    given = ask(backends)
    assert (given.route, given.model, len(given.tried)) == (route, model, num_tried)
    assert [citation.heading_path for citation in given.citations] == [("Loans", "Fees")]


def test_a_sure_small_model_leaves_the_large_one_alone(backends):
    ask(backends)
    assert [asked[0] for asked in backends.asked if asked[0] != "retrieve"] == ["small"]


@pytest.mark.parametrize(
    ("requested", "route"),
    [("small", "small"), ("large", "large"), ("large@3", "large"), ("extractive", "extractive")],
)
def test_a_model_asked_for_by_name_answers_however_sure_it_is(backends, requested, route):
    backends.texts = {"small": "nonsense", "large": "nonsense"}
    given = ask(backends, requested=requested)
    assert given.route == route
    assert bool(given.citations) is (route == "extractive")


@pytest.mark.parametrize(
    ("release", "route"),
    [
        (make_release(rungs=()), "extractive"),
        (make_release(rungs=("large",)), "large"),
        (make_release(router=False), "extractive"),
    ],
)
def test_releases_without_a_rung_or_a_router(backends, release, route):
    assert ask(backends, release=release).route == route


def test_costs_count_every_model_that_was_asked(backends):
    release = make_release()
    routed = ask(backends, release=release).tried
    assert cost_usd(release, routed) == pytest.approx(14 * 0.1 / 1000)
    assert cost_large_only_usd(release, routed) == pytest.approx(14 * 1.0 / 1000)
    backends.texts["small"] = "nonsense"
    both = ask(backends, release=release).tried
    assert cost_usd(release, both) == pytest.approx(14 * 1.1 / 1000)
    assert cost_large_only_usd(release, both) == pytest.approx(14 * 1.0 / 1000)
    assert cost_usd(release, []) == cost_large_only_usd(release, []) == 0.0


def test_confidence_is_the_highest_of_the_models_asked(backends):
    backends.texts = {"small": "nonsense", "large": "2,000 euros"}
    given = ask(backends)
    assert given.confidence == given.confidence_of("large") > 0.9 > given.confidence_of("small")
    assert ask(backends, requested="extractive").confidence == 0.7


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ("", "What is the fee?"),
        (
            "Be brief.",
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the fee?"}],
        ),
    ],
)
def test_the_releases_system_prompt_stands_before_the_question(backends, prompt, given):
    ask(backends, release=replace(make_release(), prompt=prompt))
    assert backends.prompts == [given]
