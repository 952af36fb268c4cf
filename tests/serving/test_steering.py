"""Whether a guarantee stands, who answered a conversation, and what the cascade makes of it."""

import asyncio
from dataclasses import replace

import pytest

from app.governance.guarantees import state_guarantee, void_guarantee
from app.inference.conversation import Conversation
from app.inference.sampling import Sampling
from app.routing.course import Circumstances
from app.routing.guarantee import Guarantee
from app.routing.limits import ModelCard
from app.routing.router import Cascade, Router
from app.serving.cascade import answer
from app.serving.errors import NoRelease
from app.serving.requests import ChatRequest
from app.serving.settings import ServingSettings
from app.serving.steering import Conversations, Steering, Watch
from tests.routing.made import foresight
from tests.serving.conftest import make_release, rung

PROMISED = Guarantee(0.02, 0.95, 0.1, 500, 0.5, 0.01, explored=0.02)


def trained(**more):
    return Router({name: rung(0.5) for name in ("small", "large")}, Cascade({}, 1.0, None, None), **more)


def release_of(router, **more):
    return replace(make_release(), router=router, router_digest="sha256:router", **more)


def ask(backends, release, **circumstances):
    asked = {"requested": "signalbox", "rungs": list(release.models), "backends": backends, "sampling": Sampling()}
    about = Circumstances(**circumstances)
    return asyncio.run(
        answer(Conversation.of("What is the fee?"), release=release, top_k=4, circumstances=about, **asked)
    )


@pytest.mark.parametrize(
    ("after", "skip", "route", "asked"),
    [
        (0.85, 1.0, "small", ["small"]),
        (0.75, 1.0, "large", ["small", "large"]),
        (0.85, 0.1, "large", ["large"]),
    ],
)
def test_an_answer_stands_while_the_gap_is_within_the_guarantee(backends, after, skip, route, asked):
    router = trained(guarantee=PROMISED, foresight=foresight(after=after, skip=skip))
    given = ask(backends, release_of(router))
    assert (given.route, [each.rung for each in given.tried]) == (route, asked)
    assert given.routing.guarantee == "holds"
    assert given.routing.choice == given.routing.used == route
    assert [each.to_attempt().accepted for each in given.tried] == [False] * (len(asked) - 1) + [True]


@pytest.mark.parametrize(("weak", "route", "num_searches"), [(0.79, "small", 1), (0.81, "extractive", 2)])
def test_what_was_found_too_far_away_is_searched_again_and_then_quoted(backends, weak, route, num_searches):
    router = trained(guarantee=PROMISED, foresight=foresight(weak=weak))
    given = ask(backends, release_of(router), explore=0.5, chance=0.1)
    assert (given.route, [each[0] for each in backends.asked].count("retrieve")) == (route, num_searches)
    assert bool(given.tried) is (route == "small")
    assert ("too far from the question" in given.routing.left_out.get("large", "")) is (route == "extractive")
    assert given.routing.propensities.keys() == ({"small", "large"} if route == "small" else set())


def test_where_the_largest_cannot_answer_nothing_is_guaranteed(backends):
    cards = {"large": ModelCard(context_tokens=10)}
    router = trained(guarantee=PROMISED, foresight=foresight(), cards=cards)
    given = ask(backends, release_of(router), num_chars=90)
    assert (given.route, given.routing.guarantee) == ("small", "none")


def test_a_void_guarantee_leaves_everything_to_the_large_model(backends):
    router = trained(guarantee=PROMISED, foresight=foresight())
    given = ask(backends, release_of(router), void="drift")
    assert [each.rung for each in given.tried] == ["large"]
    assert (given.routing.guarantee, given.routing.void_because) == ("void", "drift")
    assert ask(backends, release_of(trained()), void="drift").routing.guarantee == "none"


def test_chance_puts_another_model_in_and_its_answer_is_judged_like_any(backends):
    release = release_of(trained())
    drawn = ask(backends, release, explore=0.2, chance=0.19)
    assert (drawn.route, drawn.routing.choice, drawn.routing.used) == ("large", "small", "large")
    assert drawn.routing.propensities == pytest.approx({"small": 0.9, "large": 0.1})
    assert drawn.routing.explored
    backends.texts["small"] = "nothing that a passage says"
    refused = ask(backends, release, explore=0.2, chance=0.01)
    assert (refused.route, refused.routing.choice, refused.routing.used) == ("extractive", "large", "small")
    backends.texts |= {"small": "2000 euros", "large": "nothing either"}
    assert ask(backends, release, explore=0.2, chance=0.19).route == "extractive"


def test_more_than_two_models(backends):
    names = ("tiny", "small", "large")
    backends.texts |= {"tiny": "no idea"}
    models = {name: replace(make_release().models["small"], ref=f"{name}@1") for name in names}
    router = Router({name: rung(0.5) for name in names}, Cascade({}, 1.0, None, None))
    given = ask(backends, replace(make_release(), models=models, router=router))
    assert (given.route, [each.rung for each in given.tried]) == ("small", ["tiny", "small"])


def test_a_void_is_seen_within_the_period_and_an_unreadable_ledger_counts_as_void():
    said, calls = {"why": ""}, []

    def look(router):
        calls.append(router)
        if said["why"] is None:
            raise NoRelease("gone")
        return said["why"]

    async def story():
        watch = Watch(look, period_s=0.01)
        assert await watch.void("r") == ""
        said["why"] = "drift"
        for _ in range(200):
            await asyncio.sleep(0.01)
            if await watch.void("r"):
                break
        assert await watch.void("r") == "drift"
        said["why"] = None
        assert "could not be read" in await Watch(look, period_s=60.0).void("other")

    asyncio.run(story())
    assert set(calls) == {"r", "other"}


def test_after_a_pause_the_ledger_is_read_before_the_guarantee_is_judged():
    now, said, calls = [0.0], {"why": ""}, []

    def look(router):
        calls.append(router)
        if said["why"] is None:
            raise NoRelease("gone")
        return said["why"]

    async def story(*answers):
        now[0] += 3600
        assert await asyncio.gather(*(watch.void("r") for _ in answers)) == list(answers)

    async def stories():
        await story("", "")
        await story("", "")
        assert len(calls) == 2
        said["why"] = None
        await story(*["the ledger could not be read for too long"] * 2)
        assert "could not be read" in await watch.void("r")
        assert len(calls) == 3
        said["why"] = "drift"
        await story("drift")
        said["why"] = None
        await story("drift")

    watch = Watch(look, period_s=2.0, clock=lambda: now[0])
    asyncio.run(stories())


def test_a_gateway_sees_in_the_ledger_that_its_routers_guarantee_was_voided(registry):
    facts = {"guarantee": PROMISED.to_json(), "bound_to": {}}
    published = registry.publish("router", "router", inputs={}, facts=facts)
    release = replace(release_of(trained(guarantee=PROMISED)), router_digest=published.digest)
    request = ChatRequest(messages=[{"role": "user", "content": "x"}])
    settings = ServingSettings(guarantee_period_s=0.01)

    async def void(steering):
        return (await steering.begin(request, release, max_new_tokens=8, authorization=None)).void

    async def story():
        assert await void(Steering.of(settings, registry)) == "no leaf of the ledger states it"
        state_guarantee(published, facts, registry=registry)
        steering = Steering.of(settings, registry)
        assert await void(steering) == ""
        void_guarantee(published, "the questions drifted", registry=registry)
        for _ in range(500):
            if said := await void(steering):
                return said
            await asyncio.sleep(0.01)

    assert asyncio.run(story()) == "the questions drifted"


def test_a_conversation_stays_with_the_model_that_it_went_on_to(backends):
    steering = Steering(Watch(lambda _: "", period_s=60.0), chance=lambda: 1.0)
    release = release_of(trained())
    first = {"role": "user", "content": "What is the fee?"}

    given = ask(backends, release, void="x")

    async def begin(request, who="Bearer a"):
        return await steering.begin(request, release, max_new_tokens=8, authorization=who)

    async def story():
        request = ChatRequest(messages=[first])
        assert (await begin(request)).floor == ""
        steering.end(request, given, authorization="Bearer a")
        going_on = [first, {"role": "assistant", "content": given.text}, {"role": "user", "content": "And then?"}]
        assert (await begin(ChatRequest(messages=going_on))).floor == "large"
        assert (await begin(ChatRequest(messages=going_on), "Bearer b")).floor == ""
        named = ChatRequest(messages=[first], metadata={"conversation": "c1"})
        steering.end(named, given, authorization="Bearer a")
        assert (await begin(named)).floor == "large"

    asyncio.run(story())
    few = Conversations(limit=2)
    for key in "abc":
        few.keep(key, "large")
    assert [few.rung(key) for key in "abc"] == ["", "large", "large"]


@pytest.mark.parametrize(
    ("explore", "promised", "share"),
    [(None, None, 0.0), (0.1, None, 0.1), (None, PROMISED, 0.02), (0.1, PROMISED, 0.02)],
)
def test_no_more_is_left_to_chance_than_the_guarantee_counted(explore, promised, share):
    steering = Steering(Watch(lambda _: "", period_s=60.0), explore=explore)
    request, release = ChatRequest(messages=[{"role": "user", "content": "x"}]), release_of(trained(guarantee=promised))
    found = asyncio.run(steering.begin(request, release, max_new_tokens=8, authorization=None))
    assert (found.explore, found.void) == (share, "")
    swapped = replace(release, mismatch="it was calibrated with another small than the release has")
    assert "another small" in asyncio.run(steering.begin(request, swapped, max_new_tokens=8, authorization=None)).void
