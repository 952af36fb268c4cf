"""Tools: to engines that have them by OpenAI's own client, through a real server; refused by name elsewhere."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from starlette.testclient import TestClient

from app.inference.remote import OpenAIEngine, Remote
from app.inference.sampling import Sampling
from app.serving.http import create_app
from tests.serving.asked import CHAT, QUESTION, ask, post, proven
from tests.serving.conftest import make_release

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
RESULT = [
    *QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "20 degrees"},
]
HEAD = {"id": "1", "created": 0, "model": "big"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def said(body):
    """A server with tools: calls one, by its place as some servers do, and says what it gave."""
    last = body["messages"][-1]
    return (
        {"content": f"It is {last['content']}."}
        if last["role"] == "tool"
        else {"content": None, "tool_calls": [{**CALL, "index": 0}]}
    )


def pieces(message):
    if message["content"]:
        return [{"role": "assistant", "content": message["content"]}]
    opened = {"index": 0, **CALL, "function": {"name": "weather", "arguments": ""}}
    parts = ('{"city"', ': "Bern"}')
    return [{"tool_calls": [opened]}, *({"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in parts)]


@pytest.fixture
def server():
    """An OpenAI-compatible server on this machine: its address, and the bodies that it was sent."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received.append(body)
            message = said(body)
            finish = "stop" if message["content"] else "tool_calls"
            if body.get("stream"):
                choices = [[{"index": 0, "delta": each, "finish_reason": None}] for each in pieces(message)]
                choices += [[{"index": 0, "delta": {}, "finish_reason": finish}]]
                chunks = [{**HEAD, "object": "chat.completion.chunk", "choices": each} for each in choices]
                chunks += [{**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}]
                text = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"
            else:
                choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
                text = json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", received
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def served(backends, releases, server):
    """The large model stands behind the server; the small one is an engine without tools."""
    releases["assistant@production"] = make_release()
    engine = OpenAIEngine(Remote.model_validate({"servers": [{"base_url": server[0], "model": "big"}]}))
    generate, stream = backends.generate, backends.stream

    async def answer(rung, model, prompt, sampling):
        if rung != "large":
            return await generate(rung, model, prompt, sampling)
        return await engine.answer(prompt, sampling)

    async def streamed(rung, model, prompt, sampling):
        pieces = engine.stream(prompt, sampling) if rung == "large" else stream(rung, model, prompt, sampling)
        async for piece in pieces:
            yield piece

    async def lacks(rung, model, sampling):
        lacking = ("tools", "tool_choice", "parallel_tool_calls") if rung == "small" else ()
        return tuple(name for name in lacking if name in sampling.asked)

    backends.generate, backends.stream, backends.lacks = answer, streamed, lacks
    return server[1]


def test_a_tool_is_called_and_its_result_answered_by_the_official_client(gateway, served):
    with TestClient(create_app(gateway)) as http:
        client = openai.OpenAI(base_url="http://testserver/v1", api_key="-", http_client=http, max_retries=0)
        more = {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}
        called = client.chat.completions.create(model="large", messages=QUESTION, **more)
        (call,) = called.choices[0].message.tool_calls
        turn = called.choices[0].message.model_dump(exclude_none=True)
        result = {"role": "tool", "tool_call_id": call.id, "content": "20 degrees"}
        told = client.chat.completions.create(model="large", messages=[*QUESTION, turn, result], **more)
        stream = list(client.chat.completions.create(model="large", messages=QUESTION, stream=True, **more))
    assert (called.choices[0].finish_reason, called.choices[0].message.content) == ("tool_calls", None)
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("call_1", "weather", {"city": "Bern"})
    assert told.choices[0].message.content == "It is 20 degrees."
    assert [each["tools"] for each in served] == [[TOOL]] * 3
    assert [(each["tool_choice"], each["parallel_tool_calls"]) for each in served] == [("auto", False)] * 3
    assert [each["role"] for each in served[1]["messages"]] == ["user", "assistant", "tool"]
    assert served[1]["messages"][1]["tool_calls"] == [CALL]
    parts = [each for chunk in stream if chunk.choices for each in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(each.function.arguments for each in parts) == CALL["function"]["arguments"]
    assert next(each.function.name for each in parts) == "weather"
    assert stream[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "body",
    [
        {"model": "large", "messages": QUESTION},
        {"model": "large", "messages": QUESTION, "stream": True},
        {"model": "signalbox", "messages": QUESTION, "stream": True},
        {"model": "signalbox", "messages": RESULT},
        {"model": "large", "messages": QUESTION, "response_format": {"type": "json_object"}, "n": 2},
    ],
)
def test_calls_have_a_receipt_that_holds(gateway, request_log, registry, body):
    response = ask(gateway, tools=[TOOL], **body)
    assert len(proven(request_log, registry, response, {**body, "tools": [TOOL]})) == 5


def test_a_routed_request_with_tools_goes_to_models_that_have_them_and_its_answer_stands(gateway, served):
    called = ask(gateway, model="signalbox", tools=[TOOL]).json()
    assert [each["rung"] for each in called["signalbox"]["attempts"]] == ["large"]
    assert called["choices"][0]["message"]["tool_calls"] == [CALL]
    told = ask(gateway, model="signalbox", tools=[TOOL], messages=RESULT).json()
    assert (told["choices"][0]["message"]["content"], told["signalbox"]["route"]) == ("It is 20 degrees.", "large")
    assert told["signalbox"]["routing"]["guarantee"] == "none"
    assert "brings tools" in told["signalbox"]["routing"]["void_because"]


@pytest.mark.parametrize("model", ["small", "extractive"])
def test_a_model_without_tools_refuses_them_by_name_or_does_without(gateway, backends, served, model):
    refused = ask(gateway, model=model, tools=[TOOL]).json()["error"]
    assert (refused["param"], refused["code"]) == ("tools", "unsupported_parameter")
    dropped = ask(gateway, model=model, tools=[TOOL], tool_choice="auto", messages=RESULT, drop_params=True)
    assert dropped.json()["signalbox"]["dropped"] == ["tools", "tool_choice"]
    assert "tool_calls" not in dropped.json()["choices"][0]["message"]
    assert served == []
    assert backends.prompts == (["What is the fee?"] if model == "small" else [])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"tools": [{"type": "retrieval"}]}, "each of tools is"),
        ({"tools": [{"type": "function", "function": {}}]}, "each of tools is"),
        ({"tools": [{"type": "function", "function": "weather"}]}, "each of tools is"),
        ({"tools": "weather"}, "tools"),
        ({"tools": [TOOL], "tool_choice": "often"}, "tool_choice"),
        ({"tool_choice": "required"}, "send them too"),
        ({"messages": RESULT}, "read with `tools`"),
        ({"tools": [TOOL], "messages": [*QUESTION, RESULT[2]]}, "messages[1] is what a tool gave"),
        ({"tools": [TOOL], "messages": [*QUESTION, {"role": "tool", "content": "x"}]}, "messages[1]"),
        ({"tools": [TOOL], "messages": [{"role": "user", "tool_calls": [{"id": 1}]}]}, "messages.0.tool_calls.0"),
        ({"functions": [{"name": "f"}]}, "'functions' is not supported here"),
    ],
)
def test_tools_that_are_none_are_refused_with_a_sentence(gateway, body, says):
    response = ask(gateway, model="large", **body)
    assert (response.status_code, says in response.json()["error"]["message"]) == (400, True)


def test_calls_and_tools_count_before_a_prompt_is_too_long(gateway, served):
    long = {"name": "weather", "arguments": "x" * 400_000}
    turns = [*QUESTION, {**RESULT[1], "tool_calls": [{**CALL, "function": long}]}, RESULT[2]]
    described = {"type": "function", "function": {"name": "weather", "description": "x" * 400_000}}
    for body in ({"messages": turns, "tools": [TOOL]}, {"tools": [described]}):
        assert ask(gateway, model="large", **body).json()["error"]["code"] == "context_length_exceeded"
    assert served == []


def test_what_is_left_without_tools_must_end_with_a_question(gateway, backends):
    spoken = [*QUESTION, {**RESULT[1], "content": "Let me look."}, RESULT[2]]
    refused = ask(gateway, tools=[TOOL], messages=spoken, drop_params=True)
    assert (refused.status_code, "end with a user's" in refused.json()["error"]["message"]) == (400, True)
    assert backends.prompts == []


def test_half_a_character_in_tools_is_refused(gateway, served):
    half = json.dumps({"model": "large", "messages": QUESTION, "tools": [{**TOOL, "title": "\ud800"}]}).encode()
    refused = post(gateway, CHAT, half)
    assert (refused.status_code, refused.json()["error"]["param"], served) == (400, "tools", [])


def test_an_engine_whose_servers_lack_tools_says_so():
    remote = Remote.model_validate({"servers": [{"base_url": "http://one/v1", "model": "m"}], "lacks": ["tools"]})
    asked = Sampling(tools=(TOOL,), tool_choice="auto")
    assert OpenAIEngine(remote).lacks(asked) == ("tools", "tool_choice")
