"""A canary in the gateway: one release for one request, sticky, and no harm to production whatever is wrong with it."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from app.ledger.moves import Audience
from app.serving.access import add_grant
from app.serving.canary import Beside, belongs_to
from app.serving.log import read_log
from app.serving.release import Model
from app.serving.requests import ChatRequest
from tests.serving.asked import QUESTION, ask, events_of, post
from tests.serving.conftest import make_release

PRODUCTION, OTHER = (make_release("sha256:" + letter * 64) for letter in "ab")
NAMED = replace(OTHER, models={rung: Model(f"sha256:{rung}-b", f"{rung}@4") for rung in ("small", "large")})


def beside(release=OTHER, *, share=1.0, callers=()):
    return Beside(release, Audience(share, tuple(callers)), leaf=7, production=PRODUCTION.digest)


@pytest.fixture
def canaries():
    """What the ledger under test says runs beside production: one entry or none."""
    return []


@pytest.fixture
def gateway(make_gateway, canaries, releases):
    releases["assistant@production"] = PRODUCTION
    gateway = make_gateway()
    gateway._resolve_canary = lambda production: canaries[-1] if canaries else None
    return gateway


def take(gateway, *, again=True):
    """Take what the ledger says, and wait until the canary is loaded or refused."""

    async def run():
        await gateway.take("assistant@production")
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(run())
    return asyncio.run(gateway.health())[1]


def release_of(response):
    assert response.status_code == 200, response.text
    return response.headers["x-signalbox-release"]


def test_a_share_is_answered_by_the_canary_and_each_request_sees_one_release(gateway, canaries, request_log, workspace):
    canaries.append(beside(NAMED, share=0.5))
    assert take(gateway)["canary"]["release"] == NAMED.digest
    seen = {}
    for number in range(60):
        given = ask(gateway, user=f"user-{number}", headers={"x-request-id": f"r{number}"})
        body, digest = given.json(), release_of(given)
        assert body["signalbox"]["release"] == digest
        assert body["model"] == ("small@4" if digest == NAMED.digest else "small@3")
        seen[f"r{number}"] = digest
    assert 15 <= sum(digest == NAMED.digest for digest in seen.values()) <= 45
    request_log.close()
    assert {row["request_id"]: row["release"] for row in read_log(workspace.requests_dir).to_pylist()} == seen


def test_a_conversation_stays_and_a_larger_share_keeps_whom_it_had(gateway, canaries):
    def chosen(share, **said):
        canaries.append(beside(share=share))
        take(gateway)
        return [
            release_of(ask(gateway, messages=[{"role": "user", "content": f"{n} fees?"}], **said)) for n in range(40)
        ]

    low, high = chosen(0.2), chosen(0.6)
    assert 0 < low.count(OTHER.digest) < high.count(OTHER.digest) < 40
    assert all(after == OTHER.digest for before, after in zip(low, high, strict=True) if before == OTHER.digest)
    for number, digest in enumerate(high):
        later = [{"role": "user", "content": f"{number} fees?"}, {"role": "assistant", "content": "2000 euros"}]
        assert release_of(ask(gateway, messages=[*later, *QUESTION])) == digest
    assert len(set(chosen(0.5, metadata={"conversation": "c"}))) == 1
    assert len(set(chosen(0.5, user="jane"))) == 1


def test_what_a_request_belongs_to():
    def of(**said):
        return belongs_to(ChatRequest(messages=QUESTION, **said))

    assert of() == of(temperature=0.5) != of(user="jane") != of(metadata={"conversation": "jane"})
    assert of(user=7) == of(metadata={"conversation": 7}) == of(metadata=["x"]) == of()


def test_named_callers_have_the_canary_and_nobody_else(gateway, canaries, registry):
    keys = {name: add_grant(registry, name, []) for name in ("jane", "joe")}
    from app.serving.access import digests_of

    canaries.append(beside(share=0.0, callers=digests_of(registry, ["jane"])))
    take(gateway)
    assert release_of(ask(gateway, {"authorization": f"Bearer {keys['jane']}"})) == OTHER.digest
    for headers in ({}, {"authorization": f"Bearer {keys['joe']}"}, {"authorization": "Bearer sb-guess"}):
        assert release_of(ask(gateway, headers)) == PRODUCTION.digest
    found = post(gateway, "/v1/search", {"query": "fee"}, {"authorization": f"Bearer {keys['jane']}"}).json()
    assert found["release"] == OTHER.digest
    assert post(gateway, "/v1/search", {"query": "fee"}).json()["release"] == PRODUCTION.digest


def test_what_is_refused_before_it_has_a_release_is_on_no_side(gateway, canaries, request_log, workspace):
    canaries.append(beside(NAMED))
    take(gateway)
    assert release_of(ask(gateway)) == NAMED.digest
    assert ask(gateway, messages=[{"role": "user", "content": "x" * 2_000_000}]).status_code == 400
    assert ask(gateway, temperature=99).status_code == 400
    assert ask(gateway, model="gpt-4").status_code == 404
    request_log.close()
    rows = read_log(workspace.requests_dir).to_pylist()
    found = {(row["status"], row["release"]) for row in rows}
    assert found == {(200, NAMED.digest), (400, None), (404, PRODUCTION.digest)}


def test_a_model_that_only_production_has_is_asked_of_production(gateway, canaries):
    canaries.append(beside(NAMED))
    take(gateway)
    assert release_of(ask(gateway, model="small@3")) == PRODUCTION.digest
    assert release_of(ask(gateway, model="small@4")) == NAMED.digest
    assert release_of(ask(gateway)) == NAMED.digest
    assert ask(gateway, model="small@9").status_code == 404


def test_streams_and_caches_are_those_of_the_release(gateway, canaries, backends):
    exact = {"x-signalbox-cache": "exact"}
    assert ask(gateway, exact).headers["x-signalbox-cache"] == "miss"
    canaries.append(beside())
    take(gateway)
    assert ask(gateway, exact).headers["x-signalbox-cache"] == "miss"
    assert ask(gateway, exact).headers["x-signalbox-cache"] == "hit"
    streamed = ask(gateway, stream=True)
    assert release_of(streamed) == OTHER.digest
    assert events_of(streamed)[-1]["signalbox"]["release"] == OTHER.digest


def test_a_canary_that_cannot_be_loaded_leaves_production_alone(gateway, canaries):
    canaries.append(beside(replace(OTHER, index="sha256:broken")))
    said = take(gateway)
    assert (said["release"], said["canary"]) == (PRODUCTION.digest, None)
    assert "cannot be loaded" in said["canary_refused"]
    assert release_of(ask(gateway)) == PRODUCTION.digest
    canaries.append(beside())
    said = take(gateway)
    assert (said["canary"]["release"], said["canary_refused"]) == (OTHER.digest, "")


def test_a_canary_that_cannot_be_read_leaves_production_alone(gateway):
    from app.serving.errors import NoRelease

    def broken(production):
        raise NoRelease("its manifest was changed")

    gateway._resolve_canary = broken
    assert take(gateway)["canary_refused"] == "its manifest was changed"
    assert release_of(ask(gateway)) == PRODUCTION.digest


def lost(production):
    raise OSError("the store does not answer")


def test_a_canary_answers_beside_its_own_release_alone_whatever_became_of_it(gateway, canaries, releases):
    """The gateway goes on under another release, or a stopped one, while the ledger is asked what runs beside it."""
    canaries.append(beside(NAMED))
    look, seen, held = gateway._resolve_canary, [], threading.Event()

    def slow(production):
        held.wait(10)
        return look(production)

    async def ask_meanwhile():
        taking = asyncio.ensure_future(gateway.take("assistant@production"))
        while gateway._release is not releases["assistant@production"]:
            await asyncio.sleep(0)
        done = await gateway.chat(ChatRequest(messages=QUESTION), request_id="r")
        seen.append(done.headers["x-signalbox-release"])
        held.set()
        await taking

    third = make_release("sha256:" + "c" * 64)
    for release in (third, replace(PRODUCTION, models={}, router=None, stopped=True)):
        releases["assistant@production"] = PRODUCTION
        assert take(gateway)["canary"]["release"] == NAMED.digest
        releases["assistant@production"], gateway._resolve_canary = release, slow
        held.clear()
        asyncio.run(ask_meanwhile())
        gateway._resolve_canary = look
    assert seen == [third.digest, PRODUCTION.digest]


def test_a_canary_answers_nobody_while_the_ledger_cannot_be_asked(gateway, canaries):
    canaries.append(beside(NAMED))
    assert take(gateway)["canary"]["release"] == NAMED.digest
    gateway._resolve_canary = lost
    said = take(gateway)
    assert (said["canary"], said["canary_refused"]) == (None, "OSError: the store does not answer")
    assert release_of(ask(gateway)) == PRODUCTION.digest


def test_whatever_keeps_a_canary_from_being_loaded_is_said(gateway, canaries):
    async def lost_replica(release):
        raise RuntimeError("a replica is gone")

    gateway._canaries._preload = lost_replica
    canaries.append(beside())
    assert take(gateway)["canary_refused"] == "RuntimeError: a replica is gone"


def test_the_last_to_look_has_the_last_word(gateway):
    looks = iter([(0.2, beside(NAMED)), (0.0, None)])

    def look(production):
        wait_s, found = next(looks)
        time.sleep(wait_s)
        return found

    async def run():
        first = asyncio.ensure_future(gateway.take("assistant@production"))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, gateway.take("assistant@production"))
        for _ in range(20):
            await asyncio.sleep(0)

    gateway._resolve_canary = look
    asyncio.run(run())
    assert asyncio.run(gateway.health())[1]["canary"] is None


def test_replicas_that_hold_one_version_have_no_canary(make_gateway, releases):
    releases["assistant@production"] = PRODUCTION
    gateway = make_gateway(max_loaded=1)
    gateway._resolve_canary = lambda production: beside()
    assert "max_loaded" in take(gateway)["canary_refused"]
    assert release_of(ask(gateway)) == PRODUCTION.digest


def test_an_ended_canary_answers_nobody_though_the_next_release_cannot_be_loaded(gateway, canaries, releases):
    canaries.append(beside())
    take(gateway)
    canaries.clear()
    releases["assistant@production"] = replace(OTHER, index="sha256:broken")
    said = take(gateway)
    assert (said["release"], said["canary"]) == (PRODUCTION.digest, None)
    assert release_of(ask(gateway)) == PRODUCTION.digest


def test_requests_under_way_keep_their_release_while_a_canary_begins_and_ends(gateway, canaries, backends):
    """Many at once, each with its own turn of the loop between any two steps; a mixed one would name two releases."""

    async def one(number):
        request = ChatRequest(messages=[{"role": "user", "content": f"{number}: what is the fee?"}])
        done = await gateway.chat(request, request_id=f"r{number}")
        return done.response.model, done.headers["x-signalbox-release"], done.response.signalbox.release

    async def run():
        asked = []
        for number in range(120):
            asked.append(asyncio.ensure_future(one(number)))
            if number % 20 == 10:
                canaries.append(beside(NAMED, share=0.5))
                await gateway.take("assistant@production")
            if number % 20 == 19:
                canaries.clear()
                await gateway.take("assistant@production")
            await asyncio.sleep(0)
        return await asyncio.gather(*asked)

    seen = set(asyncio.run(run()))
    assert seen == {
        ("small@3", PRODUCTION.digest, PRODUCTION.digest),
        ("small@4", NAMED.digest, NAMED.digest),
    }
