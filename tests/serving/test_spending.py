"""What a request is charged whose answer does not come about: whatever its models took."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.serving.counters import ANONYMOUS, NANO, Counters
from app.serving.http import create_app
from app.serving.limits import counters_of
from app.serving.rules import change_rule
from tests.serving.asked import QUESTION, Client, ask, post
from tests.serving.conftest import make_release

NOW = datetime(2026, 11, 23, 20, 59, 15, tzinfo=UTC)
FORM = {"type": "json_schema", "json_schema": {"name": "fee", "schema": {"type": "object", "required": ["fee"]}}}
CALL_USD, PROMPT_USD = 0.014, 0.022
"""A whole call of the large model; and what is reserved for the question's tokens."""


@pytest.fixture(autouse=True)
def _serving(releases):
    releases["assistant@production"] = make_release()


def used(gateway, registry):
    """What whoever shows no key has used of its one limit, as the gateway knows it."""
    (counter,) = counters_of(Counters(registry.database).rules(), NOW)
    return counter.limit - gateway._limits.meter.remaining(counter)


@pytest.mark.parametrize(("lacking", "num_calls"), [((), 1), (("schema",), 2)])
def test_an_answer_that_is_refused_for_its_form_is_paid_for(gateway, backends, registry, lacking, num_calls):
    change_rule(registry, ANONYMOUS, {"usd_total": 1.0})
    backends.lacking = lacking
    assert ask(gateway, model="large", response_format=FORM).status_code == 422
    assert used(gateway, registry) / NANO == pytest.approx(num_calls * CALL_USD)


@pytest.mark.parametrize(
    ("during", "stream", "usd"),
    [("retrieve", False, CALL_USD), ("generate", False, PROMPT_USD), ("stream", True, PROMPT_USD)],
)
def test_a_client_who_leaves_pays_for_what_was_made(gateway, backends, registry, during, stream, usd):
    """After the model spoke, while the search runs; while the model thinks; before a stream's first piece."""
    change_rule(registry, ANONYMOUS, {"usd_total": 1.0})
    generate, spoken = backends.generate, asyncio.Event()

    async def speak(*asked):
        given = await generate(*asked)
        spoken.set()
        return given

    async def leave(*_):
        if during == "retrieve":
            await spoken.wait()
        client.left.set()
        await asyncio.Event().wait()

    async def leave_stream(*_):
        await leave()
        yield

    backends.generate = speak
    setattr(backends, during, leave_stream if stream else leave)
    client = Client({"model": "large", "messages": QUESTION, "stream": stream})
    asyncio.run(client.call(create_app(gateway)))
    assert client.status == 499
    assert used(gateway, registry) / NANO == pytest.approx(usd)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_before_it_speaks_costs_nothing(gateway, backends, registry, stream):
    change_rule(registry, ANONYMOUS, {"usd_total": 1.0})

    async def broken(*_):
        raise RuntimeError("out of memory")

    backends.generate = broken
    assert ask(gateway, model="large", stream=stream).status_code == 500
    assert used(gateway, registry) == 0


def test_embeddings_are_reserved_before_and_settled_whatever_happens(gateway, backends, registry):
    change_rule(registry, ANONYMOUS, {"tokens_per_minute": 100})
    gateway._limits._now = lambda: NOW

    def embed(text, **more):
        return post(gateway, "/v1/embeddings", {"model": "encoder", "input": text, **more}).status_code

    assert embed(["word " * 50] * 4) == 429
    assert (backends.asked, used(gateway, registry)) == ([], 0)
    assert embed("one text", dimensions=3) == 400
    assert (len(backends.asked), used(gateway, registry)) == (1, 4)
