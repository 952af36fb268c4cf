"""Answers given again: only to whom they were given, only under the same release, and free of charge."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from app.serving.access import add_grant
from app.serving.caches import AnswerCache, Entry, Place
from app.serving.counters import ANONYMOUS
from app.serving.embeddings import Embedded
from app.serving.rules import change_rule
from app.serving.steering import Steering, Watch
from tests.serving.asked import QUESTION, TEXT, ask, events_of, proven, text_of
from tests.serving.conftest import make_release
from tests.serving.test_steering import PROMISED

HEADER = "x-signalbox-cache"


@pytest.fixture(autouse=True)
def _serving(releases):
    releases["assistant@production"] = make_release()


def place(question="fee?", **more):
    where = {"kind": "chat", "release": "r1", "standing": "", "labels": frozenset(), "erased": ""} | more
    return Place.of({"model": "small"}, question, **where)


def kept(cache, *places, vector=None, num_bytes=10):
    for number, each in enumerate(places):
        cache.put(each, Entry(number, [], num_bytes, vector))


def test_a_hit_is_the_same_answer_with_a_receipt_of_its_own_and_costs_nothing(gateway, request_log, registry, backends):
    sent = {"cache": "exact"}
    first, second = ask(gateway, {"x-request-id": "r1"}, **sent), ask(gateway, {"x-request-id": "r2"}, **sent)
    assert (first.headers[HEADER], second.headers[HEADER]) == ("miss", "hit")
    one, two = first.json(), second.json()
    assert (two["choices"], two["model"], two["citations"]) == (one["choices"], one["model"], one["citations"])
    assert (two["id"], two["signalbox"]["cached_from"], two["signalbox"]["cost_usd"]) == ("chatcmpl-r2", "r1", 0)
    assert (two["usage"]["total_tokens"], second.headers["x-signalbox-cost-usd"]) == (0, "0.000000000")
    assert proven(request_log, registry, second, {"model": "small", "messages": QUESTION, **sent})
    streamed = ask(gateway, stream=True, **sent)
    assert (streamed.headers[HEADER], text_of(events_of(streamed))) == ("hit", "2000 euros")
    assert len(backends.samplings) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"model": "large"},
        {"max_tokens": 3},
        {"temperature": 1},
        {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION]},
        {"messages": [{"role": "user", "content": "What is the free?"}]},
        {"messages": [{**QUESTION[0], "name": "bob"}]},
        {"path": TEXT},
    ],
)
def test_another_request_is_no_hit(gateway, other):
    ask(gateway, cache="exact")
    assert ask(gateway, cache="exact", **other).headers[HEADER] == "miss"


def test_who_did_not_opt_in_neither_fills_nor_reads(gateway, registry):
    assert HEADER not in ask(gateway).headers
    assert ask(gateway, {HEADER: "exact"}).headers[HEADER] == "miss"
    assert HEADER not in ask(gateway).headers
    change_rule(registry, ANONYMOUS, {"cache": "exact"})
    assert ask(gateway).headers[HEADER] == "hit"
    assert HEADER not in ask(gateway, {HEADER: "off"}).headers
    assert ask(gateway, {HEADER: "often"}).status_code == 400


def test_no_answer_crosses_access_labels_releases_or_erasures(make_gateway, registry, releases, backends):
    keys = [add_grant(registry, name, labels) for name, labels in (("jane", ["hr"]), ("joe", ["hr"]), ("ann", []))]
    gateway, marks = make_gateway(), {"sha256:index": ""}
    gateway._erased = marks.__getitem__
    headers = [{"authorization": f"Bearer {key}", HEADER: "semantic"} for key in keys]
    assert [ask(gateway, each).headers[HEADER] for each in headers] == ["miss", "hit", "miss"]
    assert ask(gateway, {HEADER: "exact"}).headers[HEADER] == "hit"
    marks["sha256:index"] = "erased"
    assert ask(gateway, headers[0]).headers[HEADER] == "miss"
    releases["assistant@production"] = make_release("sha256:" + "b" * 64)
    assert ask(make_gateway(), headers[0]).headers[HEADER] == "miss"


def test_no_answer_of_a_stopped_model_or_from_before_a_void_is_given_again(make_gateway, releases):
    async def void(router):
        return why[-1]

    why, routed, watch = [""], {"model": "signalbox", "cache": "exact"}, Watch(str, period_s=60.0)
    watch.void = void
    router = replace(make_release().router, guarantee=PROMISED)
    promised = replace(make_release(), router=router, router_digest="sha256:router")
    releases["assistant@production"] = promised
    gateway = make_gateway(Steering(watch))

    def asked(**more):
        given = ask(gateway, **{**routed, **more})
        return given.headers[HEADER], given.json()["signalbox"]["route"]

    assert [asked()[0], asked()[0], asked(model="large")[0]] == ["miss", "hit", "miss"]
    why.append("drift")
    assert [asked()[0], asked()[0], asked(model="large")[0]] == ["miss", "hit", "hit"]
    releases["assistant@production"] = replace(promised, models={}, router=None, stopped=True)
    asyncio.run(gateway.take("assistant@production"))
    assert [asked(), asked()] == [("miss", "extractive"), ("hit", "extractive")]


def test_a_semantic_hit_means_the_same_and_holds_the_same_numbers(gateway, backends):
    async def embed(index, texts):
        near = [0.96, 0.28] if "free" not in texts[0] else [0.0, 1.0]
        return Embedded([3], 256, np.array([[1.0, 0.0] if "What is the fee" in texts[0] else near], dtype=np.float32))

    backends.embed = embed
    asked = {
        question: ask(gateway, cache="semantic", messages=[{"role": "user", "content": question}])
        for question in (
            "What is the fee in 2025?",
            "How much is the fee in 2025?",
            "How much is the fee in 2026?",
            "free in 2025?",
        )
    }
    assert [each.headers[HEADER] for each in asked.values()] == ["miss", "hit", "miss", "miss"]
    assert HEADER in ask(gateway, cache="exact").headers


def test_the_cache_is_bounded_and_forgets():
    now = [0.0]
    cache = AnswerCache(max_bytes=30, ttl_s=5, similarity=0.9, timer=lambda: now[0])
    places = [place(f"q{number}") for number in range(4)]
    kept(cache, *places)
    assert ([cache.exact(each) is not None for each in places], len(cache)) == ([False, True, True, True], 3)
    kept(cache, place("large"), num_bytes=31)
    assert cache.exact(place("large")) is None
    now[0] = 5.1
    assert [cache.exact(each) for each in places] == [None] * 4
    kept(cache, place("a"), vector=np.array([1.0, 0.0]))
    near, far = np.array([0.95, 0.31]), np.array([0.5, 0.87])
    assert cache.nearest(place("b"), near) is not None
    assert cache.nearest(place("b"), far) is None
    assert cache.nearest(place("b", labels=frozenset({"hr"})), near) is None


def test_an_answer_that_was_cut_or_refused_is_not_kept(gateway, backends):
    async def breaking(*asked):
        async for delta in stream(*asked):
            yield replace(delta, whole=None)
            raise RuntimeError("gone")

    stream, backends.stream = backends.stream, breaking
    assert "error" in json.dumps(events_of(ask(gateway, stream=True, cache="exact"))[-1])
    assert ask(gateway, cache="exact").headers[HEADER] == "miss"
