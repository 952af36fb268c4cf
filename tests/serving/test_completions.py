"""OpenAI's completions by the official clients: parameters, choices, forms, streams; each with a receipt that holds."""

import asyncio
import json
from dataclasses import replace

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from app.inference.sampling import Delta, TokenLogprob
from app.ledger.receipts import read_header
from app.serving.http import create_app
from app.serving.log import read_log
from tests.serving.asked import CHAT, QUESTION, TEXT, ask, events_of, proven, text_of
from tests.serving.conftest import make_release

RELEASE = make_release()
SCHEMA = {"type": "object", "properties": {"fee": {"type": "integer"}}, "required": ["fee"]}
FORM = {"type": "json_schema", "json_schema": {"name": "fee", "schema": SCHEMA}}
TOKENS = tuple(
    TokenLogprob(text, text.encode(), -0.5, (TokenLogprob(text, text.encode(), -0.5), TokenLogprob("x", b"x", -2.0)))
    for text in ("2000", " euros")
)


@pytest.fixture(autouse=True)
def _serving(releases):
    releases["assistant@production"] = RELEASE


def says(backends, *texts, tokens=()):
    """The engines say these texts, one after the other, with these tokens."""
    left, generate = list(texts), backends.generate

    async def say(*asked):
        given = await generate(*asked)
        return replace(given, text=left.pop(0) if left else given.text, tokens=tokens)

    backends.generate = say


def test_completions_by_the_official_client(gateway):
    with TestClient(create_app(gateway)) as http:
        client = openai.OpenAI(base_url="http://testserver/v1", api_key="-", http_client=http, max_retries=0)
        given = client.completions.create(model="small", prompt="What is the fee?", max_tokens=5)
        chunks = list(client.completions.create(model="small", prompt=["What is the fee?"], stream=True))
    assert (given.choices[0].text, given.object, given.model) == ("2000 euros", "text_completion", "small@3")
    assert given.id.startswith("cmpl-")
    assert given.usage.prompt_tokens_details.cached_tokens == 0
    assert "".join(chunk.choices[0].text for chunk in chunks) == "2000 euros"
    assert chunks[-1].signalbox["route"] == "small"


def test_the_asynchronous_client_asks_and_streams(gateway, backends):
    async def run():
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport) as http:
            client = openai.AsyncOpenAI(base_url="http://box/v1", api_key="-", http_client=http, max_retries=0)
            whole = await client.chat.completions.create(model="small", messages=QUESTION, seed=7, temperature=0.5)
            options = {"stream": True, "stream_options": {"include_usage": True}}
            stream = await client.chat.completions.create(model="large", messages=QUESTION, **options)
            return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(run())
    assert whole.choices[0].message.content == "2000 euros"
    assert (backends.samplings[0].seed, backends.samplings[0].temperature) == (7, 0.5)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "2,000 euros"
    assert chunks[-1].usage.total_tokens == 14
    assert backends.open == 0


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 3, "seed": 5, "temperature": 1},
        {"logprobs": 2},
        {"stream": True},
        {"stream": True, "n": 2, "logprobs": 2},
        {"stream": True, "model": "signalbox", "stream_options": {"include_usage": True}},
    ],
)
def test_every_kind_of_answer_has_a_receipt_that_holds(gateway, backends, request_log, registry, path, body):
    if path == CHAT and "logprobs" in body:
        body = {**body, "logprobs": True, "top_logprobs": 2}
    says(backends, tokens=TOKENS if "logprobs" in body else ())
    response = ask(gateway, path=path, **body)
    question = {"messages": QUESTION} if path == CHAT else {"prompt": "What is the fee?"}
    sent = {"model": "small", **question, **body}
    assert len(proven(request_log, registry, response, sent)) == 5
    if not body.get("stream"):
        account, num = response.json()["signalbox"], body.get("n", 1)
        assert [account[name] for name in ("route", "release", "index")] == ["small", RELEASE.digest, "sha256:index"]
        assert (len(account["attempts"]), account["cost_usd"]) == (num, pytest.approx(num * 0.0014))
        assert response.headers["x-signalbox-index"] == "sha256:index"


def test_a_stream_whose_tokens_do_not_spell_its_text_has_a_receipt_that_holds(gateway, backends, request_log, registry):
    tokens = tuple(TokenLogprob(text, raw, -0.5) for text, raw in ((" ", b" "), ("?", b"\xe2\x82"), ("?", b"\xac")))

    async def stream(*asked):
        whole = replace(await backends.generate(*asked), text="€", tokens=tokens)
        for token in tokens[:2]:
            yield Delta(text="", tokens=(token,))
        yield Delta(text="€", tokens=tokens[2:], whole=whole)

    backends.stream = stream
    response = ask(gateway, path=TEXT, stream=True, logprobs=0)
    held = [each["choices"][0]["logprobs"] for each in events_of(response)]
    assert [each["text_offset"] for each in held if each] == [[0], [1], [2]]
    sent = {"model": "small", "prompt": "What is the fee?", "stream": True, "logprobs": 0}
    assert proven(request_log, registry, response, sent)


def test_several_choices_have_seeds_of_their_own(gateway, backends):
    says(backends, "one", "two", "three")
    body = ask(gateway, n=3, seed=2**63 - 1, temperature=1).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["one", "two", "three"]
    assert [each.seed for each in backends.samplings] == [2**63 - 1, -(2**63), -(2**63) + 1]
    assert body["usage"]["total_tokens"] == 3 * 14


def test_the_router_chooses_once_for_all_choices(gateway, backends):
    says(backends, "no idea", "2,000 euros", "something else", "2000 euros")
    body = ask(gateway, model="signalbox", n=3, temperature=1).json()
    quoted = "The fee is 2,000 euros a year."
    assert [choice["message"]["content"] for choice in body["choices"]] == ["2,000 euros", quoted, "2000 euros"]
    assert [each["rung"] for each in body["signalbox"]["attempts"]] == ["small", "large", "large", "large"]
    assert [each["accepted"] for each in body["signalbox"]["attempts"]] == [False, True, False, True]
    says(backends, "no idea", "none")
    extracts = ask(gateway, model="signalbox", n=2).json()
    assert [choice["message"]["content"] for choice in extracts["choices"]] == [quoted] * 2
    assert len(extracts["signalbox"]["attempts"]) == 2


def test_log_probabilities_in_both_forms(gateway, backends):
    says(backends, tokens=TOKENS)
    chat = ask(gateway, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["bytes"][:2], len(each["top_logprobs"])) for each in chat] == [
        ("2000", [50, 48], 2),
        (" euros", [32, 101], 2),
    ]
    text = ask(gateway, path=TEXT, logprobs=2).json()["choices"][0]["logprobs"]
    assert text == {
        "tokens": ["2000", " euros"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"2000": -0.5, "x": -2.0}, {" euros": -0.5, "x": -2.0}],
        "text_offset": [0, 4],
    }


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"tools": [{"type": "function", "function": {"name": "weather"}}]}, "tools"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temprature": 0.5}, "temprature"),
        ({"temperature": 0.5}, "temperature"),
        ({"logprobs": True}, "logprobs"),
        ({"model": "extractive", "stop": "x"}, "stop"),
        ({"model": "extractive", "response_format": FORM}, "response_format"),
        ({"path": TEXT, "echo": True}, "echo"),
        ({"path": TEXT, "suffix": "x"}, "suffix"),
    ],
)
def test_what_is_not_there_is_refused_by_name_or_dropped(gateway, backends, body, name):
    backends.lacking = ("temperature", "num_logprobs", "tools")
    refused = ask(gateway, **body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, name, "unsupported_parameter")
    dropped = ask(gateway, drop_params=True, **body)
    assert (dropped.status_code, dropped.json()["signalbox"]["dropped"]) == (200, [name])
    assert all(not each.asked for each in backends.samplings)


@pytest.mark.parametrize(
    "body",
    [
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "auto"},
        {"user": "jane", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": True},
        {"n": None, "stop": None, "seed": None, "temperature": None, "top_p": None, "stream": None, "logprobs": False},
        {"model": "extractive", "temperature": 0.5, "seed": 3, "top_p": 0.9},
    ],
)
def test_what_changes_nothing_is_accepted(gateway, body):
    assert ask(gateway, **body).status_code == 200


OUT_OF_RANGE = [
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"seed": 2**64}, "seed"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"metadata": {"tags": 3}}, "metadata"),
    ({"cache": "always"}, "cache"),
    ({"path": TEXT, "prompt": [1, 2]}, "prompt"),
    ({"path": TEXT, "prompt": ["a", "b"]}, "prompt"),
    ({"path": TEXT, "prompt": " "}, "prompt"),
    ({"path": TEXT, "logprobs": 6}, "logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}},
        "response_format",
    ),
]


def test_what_is_out_of_range_is_refused_by_name(gateway):
    for body, param in OUT_OF_RANGE:
        refused = ask(gateway, **body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), body


def test_schemas_that_could_take_long_or_reach_out_are_refused(gateway):
    schemas = {
        "pattern": {"properties": {"a": {"pattern": "(a+)+$"}}},
        "far": {"$ref": "http://127.0.0.1/secret.json"},
        "many": {"allOf": [{"$ref": "#/$defs/a"}] * 25, "$defs": {"a": {}}},
        "long": {"description": "x" * 20_000},
        "deep": json.loads('{"not":' * 500 + "{}" + "}" * 500),
    }
    for name, schema in schemas.items():
        refused = ask(gateway, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format"), name


@pytest.mark.parametrize(
    ("texts", "status", "said"),
    [
        (['{"fee": 2000}'], 200, '{"fee": 2000}'),
        (["2000 euros", '{"fee": 2000}'], 200, '{"fee": 2000}'),
        (['{"fee": "much"}', '{"fee": 1}'], 200, '{"fee": 1}'),
        (["2000 euros", '{"fee": "much"}'], 422, "form that response_format asks for"),
    ],
)
def test_an_engine_that_cannot_constrain_is_asked_once_more(gateway, backends, texts, status, said):
    backends.lacking = ("schema",)
    says(backends, *texts)
    response = ask(gateway, response_format=FORM)
    assert response.status_code == status
    assert said in response.text.replace('\\"', '"')
    assert len(backends.prompts) == len(texts)
    assert "JSON schema" in backends.prompts[0]
    if len(texts) == 2:
        assert f"This answer was wrong: {texts[0]}" in backends.prompts[1]
    if status == 200:
        assert response.json()["usage"]["total_tokens"] == 14 * len(texts)


def test_an_engine_that_can_constrain_gets_the_schema_and_is_checked(gateway, backends):
    says(backends, '{"fee": 2000}', '{"fee": 20')
    assert ask(gateway, response_format=FORM).status_code == 200
    assert (backends.samplings[0].schema, backends.prompts) == (SCHEMA, ["What is the fee?"])
    refused = ask(gateway, response_format=FORM, stream=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "response_format_failed")


def test_the_router_asks_the_next_model_when_one_cannot_write_the_form(gateway, backends):
    backends.lacking = ("schema",)
    says(backends, "no", "no again", '{"year": 2000}', "{}")
    body = ask(gateway, model="signalbox", response_format={"type": "json_object"}).json()
    assert body["error"]["code"] == "response_format_failed"
    assert len(backends.prompts) == 3


def test_a_stream_that_fails_before_its_first_piece_has_a_status(gateway, backends, workspace, request_log):
    async def broken(*_):
        raise RuntimeError("out of memory")

    backends.generate = broken
    assert ask(gateway, stream=True).status_code == 500
    assert (backends.open, gateway.num_inside) == (0, 0)
    request_log.close()
    assert read_log(workspace.requests_dir)["status"].to_pylist() == [500]


def test_a_stream_that_fails_later_ends_with_an_error_and_a_receipt(gateway, backends, registry, request_log):
    stream = backends.stream

    async def breaking(*asked):
        async for delta in stream(*asked):
            yield delta
            raise RuntimeError("the replica is gone")

    backends.stream = breaking
    response = ask(gateway, stream=True)
    events = events_of(response)
    assert text_of(events) == "2000 "
    assert (events[-2]["choices"][0]["finish_reason"], events[-1]["error"]["type"]) == ("length", "server_error")
    assert proven(request_log, registry, response, {"model": "small", "messages": QUESTION, "stream": True})
    request_log.close()
    row = read_log(registry.workspace.requests_dir).to_pylist()[0]
    assert (row["answer"], row["status"], "the gateway failed" in row["error"]) == ("2000 ", 200, True)


def test_a_choice_that_fails_while_another_speaks_is_cut_alone(gateway, backends, registry, request_log):
    speaking, stream = asyncio.Event(), backends.stream

    async def one_breaks(rung, model, prompt, sampling):
        if sampling.seed == 8:
            await speaking.wait()
            raise RuntimeError("the replica is gone")
        async for delta in stream(rung, model, prompt, sampling):
            yield delta
            speaking.set()

    backends.stream = one_breaks
    sent = {"stream": True, "n": 2, "seed": 7}
    response = ask(gateway, **sent)
    events = events_of(response)
    assert text_of(events) == "2000 euros"
    assert [event["choices"][0]["finish_reason"] for event in events[-3:-1]] == ["stop", "length"]
    assert "the gateway failed" in events[-1]["error"]["message"]
    assert proven(request_log, registry, response, {"model": "small", "messages": QUESTION, **sent})


def test_a_stream_whose_documents_cannot_be_searched_ends_with_an_error_and_a_receipt(gateway, backends):
    speaking, stream = asyncio.Event(), backends.stream

    async def broken(*_):
        await speaking.wait()
        raise RuntimeError("the index is gone")

    async def speak(*asked):
        async for delta in stream(*asked):
            yield delta
            speaking.set()

    backends.retrieve, backends.stream = broken, speak
    *said, last = events_of(ask(gateway, {"x-request-id": "r1"}, stream=True))
    assert (text_of(said), last["error"]["type"]) == ("2000 euros", "server_error")
    assert read_header(last["receipt"])["id"] == "r1"
