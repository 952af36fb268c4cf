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
        "encoder",
    ]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "gpt-4"}, 404, "ask for one of signalbox, small"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "no question"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "no question"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "text parts"),
        ({"n": 0}, 400, "n: "),
        ({"n": 17}, 400, "n: "),
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


def test_the_official_client_gets_embeddings(client, backends):
    texts = ["a fee", "the card"] * 100
    asked = {"model": "encoder", "input": texts, "user": "jane"}
    packed, plain = client.embeddings.create(**asked), client.embeddings.create(**asked, encoding_format="float")
    assert [each.embedding for each in packed.data] == [each.embedding for each in plain.data]
    assert [(each.index, each.embedding[0]) for each in plain.data[:2]] == [(0, 5.0), (1, 8.0)]
    assert (len(plain.data), plain.model, plain.usage.total_tokens) == (200, "all-minilm-l6-v2", 800)
    assert backends.asked[:4] == [("embed", "sha256:index", num) for num in (64, 64, 64, 8)]
    one = client.embeddings.create(model=plain.model, input="one text", dimensions=2)
    assert [each.embedding for each in one.data] == [[8.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"input": ""}, 400, "input[0] holds no text"),
        ({"input": []}, 400, "0 texts"),
        ({"input": ["fee", " \n"]}, 400, "input[1] holds no text"),
        ({"input": [[1, 2], [3]]}, 400, "token arrays are not understood"),
        ({"input": [1, 2]}, 400, "token arrays"),
        ({"input": {"text": "fee"}}, 400, "send a text"),
        ({"input": None}, 400, "send a text"),
        ({"input": ["fee", None]}, 400, "send a text"),
        ({"input": ["fee"] * 2049}, 400, "2049 texts are given: send 1 to 2048"),
        ({"input": "fee " * 2_500_000}, 413, "larger than 8,388,608 bytes"),
        ({"input": "fee " * 1_000_000}, 400, "100,000 characters"),
        ({"input": ["fee " * 25_000] * 41}, 400, "all together 4,000,000"),
        ({"input": ["fee", "fee " * 300]}, 400, "input[1] has 302 tokens, the encoder reads 256"),
        ({"dimensions": 64}, 400, "vectors have 2 dimensions"),
        ({"dimensions": 0}, 400, "dimensions"),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"inputs": "fee"}, 400, "inputs"),
        ({"model": "text-embedding-3-small"}, 404, "ask for one of encoder, signalbox, all-minilm-l6-v2"),
        ({"model": "small"}, 404, "does not exist"),
        ({"model": ["encoder"]}, 400, "model"),
    ],
)
def test_bad_requests_for_embeddings_in_openais_form(http, change, status, says):
    response = http.post("/v1/embeddings", json={"model": "encoder", "input": "fee", **change})
    assert response.status_code == status
    error = response.json()["error"]
    assert says in error["message"]
    assert len(response.content) < 1000
    assert error["type"] == "invalid_request_error"


def test_embeddings_of_odd_bodies(http):
    sent = {"headers": {"content-type": "application/json"}}
    assert http.post("/v1/embeddings", content='{"input": "half \\ud800 a pair"}', **sent).status_code == 200
    bad = [b"", b"{", b"[]", b"{}", b'"fee"', b"[" * 100_000, b'{"input": "\xff"}']
    for body in bad:
        response = http.post("/v1/embeddings", content=body, **sent)
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error"), body[:20]


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
        assert http.post("/v1/embeddings", json={"input": "fee"}).status_code == 503
        assert json.loads(response.text)["error"]["type"] == "service_unavailable"
