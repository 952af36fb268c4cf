import asyncio
import json

import openai
import pytest
from starlette.testclient import TestClient

from app.core.errors import SignalboxError
from app.serving.http import create_app
from tests.serving.conftest import make_release

RELEASE = make_release()
QUESTION = [{"role": "user", "content": "What is the fee?"}]


@pytest.fixture
def http(gateway, releases):
    releases["assistant@production"] = RELEASE
    asyncio.run(gateway.take("assistant@production"))
    with TestClient(create_app(gateway), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(http):
    """The official client over the application, without a network."""
    return openai.OpenAI(base_url="http://testserver/v1", api_key="-", http_client=http, max_retries=0)


def test_the_official_client_gets_an_answer(client):
    raw = client.chat.completions.with_raw_response.create(
        model="signalbox", messages=QUESTION, temperature=0.2, extra_headers={"x-request-id": "mine"}
    )
    completion = raw.parse()
    assert completion.choices[0].message.content == "2000 euros"
    assert completion.id == "chatcmpl-mine"
    assert completion.citations[0]["heading_path"] == ["Loans", "Fees"]
    assert completion.signalbox["route"] == raw.headers["x-signalbox-route"] == "small"


def test_the_official_client_reads_the_stream(client):
    stream = client.chat.completions.create(
        model="extractive", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The fee is 2,000 euros a year."
    assert len(chunks) > 6
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-2].citations[0]["source"] == "loans.md"
    assert chunks[-1].usage.total_tokens == 0


def test_the_official_client_lists_models(client):
    assert [model.id for model in client.models.list()] == [
        "signalbox",
        "small",
        "large",
        "extractive",
        "small@3",
        "large@3",
    ]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "gpt-4"}, 404, "ask for one of signalbox, small"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "no question"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "no question"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "text parts"),
        ({"n": 3}, 400, "n above 1"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"max_tokens": 0}, 400, "max_tokens"),
    ],
)
def test_bad_requests_in_openais_form(http, change, status, says):
    response = http.post("/v1/chat/completions", json={"model": "signalbox", "messages": QUESTION, **change})
    assert response.status_code == status
    error = response.json()["error"]
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def test_text_parts_are_read(http):
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the fee?"}]
    response = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert response.status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("get", "/v1/nothing", 404), ("get", "/v1/search", 405)])
def test_unknown_paths_in_openais_form(http, method, path, status):
    response = getattr(http, method)(path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_body_that_is_no_json(http):
    response = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_search(http):
    response = http.post("/v1/search", json={"query": "fee", "top_k": 1})
    assert response.json()["data"][0]["heading_path"] == ["Loans", "Fees"]
    assert http.post("/v1/search", json={"query": ""}).status_code == 400
    assert http.post("/v1/search", json={"query": "fee", "topk": 1}).json()["error"]["param"] == "topk"


@pytest.mark.parametrize(
    ("fault", "status"), [(SignalboxError("the index is gone: restore it"), 503), (KeyError(), 500)]
)
def test_faults_in_openais_form(http, backends, fault, status):
    async def fail(*_):
        raise fault

    backends.retrieve = fail
    response = http.post("/v1/chat/completions", json={"messages": QUESTION})
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_health_and_metrics(http):
    http.post("/v1/chat/completions", json={"messages": QUESTION})
    assert http.get("/healthz").json()["release"] == RELEASE.digest
    assert 'event="route_small"} 1' in http.get("/metrics").text


def test_no_release_yet(gateway):
    with TestClient(create_app(gateway)) as http:
        assert http.get("/healthz").status_code == 503
        assert "no release" in http.get("/healthz").json()["reason"]
        response = http.post("/v1/chat/completions", json={"messages": QUESTION})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_release")
        assert http.get("/v1/models").status_code == 503
        assert json.loads(response.text)["error"]["type"] == "service_unavailable"
