"""Limits and budgets: exact under any number of gateways, settled afterwards, refused in OpenAI's form."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from app.cli import app
from app.registry.versions import open_registry
from app.serving.access import AccessList, add_grant
from app.serving.counters import ANONYMOUS, BadLimit, Counter, Counters, Rule
from app.serving.errors import ApiError
from app.serving.limits import Amounts, Limits, counters_of, seconds_left
from app.serving.meter import Meter, Spent
from app.serving.rules import change_rule, subject_of
from tests.conftest import on_both

NOW = datetime(2026, 11, 23, 20, 59, 15, tzinfo=UTC)


def counter(limit=1000, name="tokens_per_minute", period="2026-11-23T20:59Z"):
    return Counter("key:a", name, period, limit)


def limits_of(registry, **more):
    return Limits(Counters(registry.database), AccessList.of(registry), refresh_s=0.0, now=lambda: NOW, **more)


async def entered(limits, authorization=None, tags=(), *, more=None):
    """A reservation of a request that was let in."""
    held = limits.reservation(await limits.caller(authorization, tags))
    await held.enter()
    await held.extend(more or Amounts())
    return held


@on_both
def test_many_gateways_take_no_more_than_the_limit(any_workspace):
    counters, each = Counters(open_registry(any_workspace).database), counter(100)
    assert counters.take(each, least=60, most=61).amount == 61
    assert counters.take(each, least=40, most=41).amount == 0
    assert counters.take(each, least=39, most=50).amount == 39
    assert counters.take(each, least=1, most=1).used == 100
    counters.add(each, -30)
    assert counters.take(each, least=30, most=31).amount == 30
    assert counters.take(counter(100, period="2026-11-23T21:00Z"), least=101, most=101).amount == 0
    counters.forget(counter(100, period="2026-11-23T21:00Z"))
    assert counters.used([each]) == {each: 0}


@pytest.mark.parametrize(("over", "bound"), [(0, 1000), (3, 1000 + 4 * 3)])
def test_how_far_four_gateways_overshoot(registry, over, bound):
    """Each reserves 10 and uses ``over`` more: what is beyond the limit is what the last of each gateway went over."""

    async def ask(meter, limit):
        used = 0
        while True:
            try:
                await meter.reserve({limit: 10})
            except Spent:
                return used
            await asyncio.sleep(0)
            meter.give_back({limit: -over})
            await meter.flush()
            used += 10 + over

    async def run():
        limit = counter(1000)
        meters = [Meter(Counters(registry.database)) for _ in range(4)]
        used = sum(await asyncio.gather(*(ask(meter, limit) for meter in meters)))
        await asyncio.gather(*(meter.close() for meter in meters))
        return used, Counters(registry.database).used([limit])[limit]

    used, counted = asyncio.run(run())
    assert used == counted
    assert 1000 - 4 * (10 + 2 * 10) <= used <= bound


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from app.core.workspace import Workspace
from app.registry.versions import open_registry
from app.serving.counters import Counters
from app.serving.meter import Meter
from tests.serving.test_limits import counter

async def run():
    meter = Meter(Counters(open_registry(Workspace.find(Path(sys.argv[1]))).database))
    for _ in range(4):
        await meter.reserve({counter(1000): 50})
    meter.give_back({counter(1000): 5})
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(run())
"""


def test_a_gateway_that_is_killed_gives_nothing_away(registry):
    """What it had reserved, and its lease, stay counted: whoever comes after it spends the rest and no more."""
    limit = counter(1000)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(registry.workspace.root)], check=False, timeout=60)
    counters = Counters(registry.database)
    counted = counters.used([limit])[limit]
    assert (killed.returncode, 200 <= counted <= 200 + 10) == (-signal.SIGKILL, True)

    async def spend():
        meter, spent = Meter(counters), 0
        with contextlib.suppress(Spent):
            while True:
                await meter.reserve({limit: 10})
                spent += 10
        return spent

    assert 1000 - counted - 10 < asyncio.run(spend()) <= 1000 - counted


def test_not_every_request_writes(registry, monkeypatch):
    taken = []
    counters = Counters(registry.database)
    take = counters.take

    def spy(*args, **amounts):
        taken.append(amounts)
        return take(*args, **amounts)

    monkeypatch.setattr(counters, "take", spy)

    async def run():
        meter = Meter(counters)
        for _ in range(20):
            await meter.reserve({counter(1000): 1})

    asyncio.run(run())
    assert len(taken) == 2


def test_all_limits_hold_together_or_nothing_is_reserved(registry):
    async def run():
        meter, wide, tight = Meter(Counters(registry.database)), counter(1000), counter(5, "requests_per_minute")
        with pytest.raises(Spent):
            await meter.reserve({wide: 100, tight: 6})
        await meter.close()
        return Counters(registry.database).used([wide, tight])

    assert set(asyncio.run(run()).values()) == {0}


def test_a_caller_who_went_away_loses_nothing(registry):
    async def run():
        meter, limit = Meter(Counters(registry.database)), counter(1000)
        waiting = asyncio.ensure_future(meter.reserve({limit: 100}))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await meter.close()
        return Counters(registry.database).used([limit])[limit]

    assert asyncio.run(run()) == 0


def test_the_rate_of_a_key_and_what_the_headers_say(registry):
    key = add_grant(registry, "jane", [])
    change_rule(registry, subject_of(registry, name="jane"), {"requests_per_minute": 2, "tokens_per_minute": 100})

    async def run():
        limits = limits_of(registry)
        first = await entered(limits, f"Bearer {key}", more=Amounts(tokens=60))
        first.settle(Amounts(tokens=20))
        await limits.meter.flush()
        second = await entered(limits, f"Bearer {key}", more=Amounts(tokens=80))
        with pytest.raises(ApiError) as requests:
            await entered(limits, f"Bearer {key}")
        with pytest.raises(ApiError) as tokens:
            await second.extend(Amounts(tokens=1))
        others = await entered(limits)
        return second.headers, requests.value, tokens.value, others.headers

    headers, requests, tokens, others = asyncio.run(run())
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-remaining-tokens"]) == ("0", "0")
    assert headers["x-ratelimit-reset-tokens"].endswith("s")
    for refused, says in ((requests, "its limit of 2 requests per minute"), (tokens, "its limit of 100 tokens")):
        assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
        assert says in str(refused)
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert "x-ratelimit-limit-tokens" in refused.headers
    assert others == {}


@pytest.mark.parametrize(
    ("name", "says", "again"),
    [("usd_per_day", "per day", True), ("usd_per_month", "per month", True), ("usd_total", "in all", False)],
)
def test_a_budget_that_is_spent(registry, name, says, again):
    change_rule(registry, ANONYMOUS, {name: 0.01})

    async def run():
        limits = limits_of(registry)
        held = await entered(limits, more=Amounts(usd=0.01))
        held.settle(Amounts(usd=0.008))
        held.settle(Amounts(usd=0.0))
        await limits.meter.close()
        with pytest.raises(ApiError) as refused:
            await entered(limits_of(registry), more=Amounts(usd=0.0021))
        await entered(limits_of(registry), more=Amounts(usd=0.002))
        return refused.value

    refused = asyncio.run(run())
    assert (refused.status, refused.kind, refused.code) == (429, "insufficient_quota", "insufficient_quota")
    assert says in str(refused)
    assert refused.headers["x-should-retry"] == "false"
    assert ("retry-after" in refused.headers) == again


def test_tags_count_for_all_keys_that_have_them_and_for_requests_that_name_them(registry):
    key = add_grant(registry, "jane", [])
    change_rule(registry, subject_of(registry, name="jane"), {"tags": ["team-a"]})
    change_rule(registry, subject_of(registry, tag="team-a"), {"usd_total": 1.0})

    async def run():
        limits = limits_of(registry)
        await entered(limits, f"Bearer {key}", more=Amounts(usd=0.6))
        await entered(limits, more=Amounts(usd=0.6))
        with pytest.raises(ApiError, match="the tag 'team-a' has spent"):
            await entered(limits, tags=["team-a"], more=Amounts(usd=0.6))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rule", "action", "model", "allowed"),
    [
        ({}, "answer", "large", True),
        ({"models": ["small"]}, "answer", "small", True),
        ({"models": ["small@3"]}, "answer", "small", True),
        ({"models": ["small"]}, "answer", "large", False),
        ({"models": ["small"]}, "answer", "signalbox", False),
        ({"role": "search"}, "search", None, True),
        ({"role": "search"}, "answer", "small", False),
        ({"role": "answer"}, "search", None, False),
    ],
)
def test_what_a_key_may_ask_for(registry, rule, action, model, allowed):
    change_rule(registry, ANONYMOUS, rule)
    caller = asyncio.run(limits_of(registry).caller(None))
    if allowed:
        caller.check(action, model, also=["small@3"] if model == "small" else [])
        return
    with pytest.raises(ApiError) as refused:
        caller.check(action, model)
    assert (refused.value.status, refused.value.code) == (403, "permission_denied")


@pytest.mark.parametrize("fault", [BadLimit("damaged"), OperationalError("x", None, Exception("down"))])
def test_nobody_is_let_in_before_the_rules_were_read(registry, monkeypatch, fault):
    """However many ask while they are read: all wait for the one read, and all see what came of it."""
    change_rule(registry, ANONYMOUS, {"models": ["small"]})
    counters = Counters(registry.database)
    limits, reads, rules = Limits(counters, AccessList.of(registry), refresh_s=60.0), [], counters.rules

    def read():
        reads.append(1)
        if len(reads) == 1:
            raise fault
        return rules()

    monkeypatch.setattr(counters, "rules", read)

    async def run():
        return await asyncio.gather(*(limits.caller(None) for _ in range(3)), return_exceptions=True)

    refused, let_in = asyncio.run(run()), asyncio.run(run())
    assert all(isinstance(each, BadLimit | ApiError) for each in refused)
    assert [each.rule.models for each in let_in] == [("small",)] * 3
    assert len(reads) == 2


def test_a_key_can_be_required(registry):
    limits, key = limits_of(registry, require_key=True), add_grant(registry, "jane", ["hr"])
    with pytest.raises(ApiError) as refused:
        asyncio.run(limits.caller("Bearer sb-unknown"))
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert asyncio.run(limits.caller(f"Bearer {key}")).labels == {"hr"}


def test_periods_and_when_they_end():
    rule = Rule(requests_per_minute=1, tokens_per_minute=2, usd_per_day=0.5, usd_per_month=3, usd_total=0)
    found = {each.name: each for each in counters_of({"anonymous": rule}, NOW)}
    assert [(each.period, each.limit) for each in found.values()] == [
        ("2026-11-23T20:59Z", 1),
        ("2026-11-23T20:59Z", 2),
        ("2026-11-23", 500_000_000),
        ("2026-11", 3_000_000_000),
        ("", 0),
    ]
    assert [seconds_left(each, lambda: NOW) for each in found.values()] == [45, 45, 10845, 10845 + 7 * 86400, 0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["joe", "--usd-total", "1"], "no key named"),
        (["--usd-total", "1"], "whose limit"),
        (["--anonymous", "--tag", "a", "--usd-total", "1"], "whose limit"),
        (["--tag", "a b", "--usd-total", "1"], "no tag"),
        (["--anonymous", "--usd-total", "-1"], "usd_total"),
        (["--anonymous", "--role", "king"], "role"),
    ],
)
def test_limits_that_cannot_be_set(registry, given, says):
    result = CliRunner().invoke(app, ["access", "limit", *given, "--workspace", str(registry.workspace.root)])
    assert isinstance(result.exception, BadLimit)
    assert says in str(result.exception)


def test_the_commands_set_show_and_clear_limits(registry):
    def run(*words):
        result = CliRunner().invoke(app, ["access", *words, "--workspace", str(registry.workspace.root)])
        return result.output

    add_grant(registry, "jane", [])
    assert "usd_per_day" in run("limit", "jane", "--usd-per-day", "2", "--model", "small", "--key-tag", "team-a")
    run("limit", "jane", "--requests-per-minute", "5")
    asyncio.run(entered(limits_of(registry), tags=["team-b"]))
    shown = json.loads(run("limits", "--json"))[0]
    assert (shown["name"], shown["used"]) == ("jane", {"usd_per_day": 0.0, "requests_per_minute": 0})
    assert shown["rule"] == {"requests_per_minute": 5, "usd_per_day": 2.0, "models": ["small"], "tags": ["team-a"]}
    assert "0 of 2" in run("limits")
    assert "no limits any more" in run("limit", "jane", "--clear")
    assert run("limits").strip() == ""
