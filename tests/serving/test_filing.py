"""Batches over HTTP, asked for by OpenAI's own client, without a cluster: what is begun, listed, read, refused."""

import json

import httpx
import openai
import pytest
from fastapi import FastAPI

from app.serving.access import AccessList, add_grant
from app.serving.batches import Batches, answered
from app.serving.filing import add_batches
from app.serving.http import add_errors

CHAT = "/v1/chat/completions"
LINE = {"custom_id": "q1", "method": "POST", "url": CHAT, "body": {"messages": [{"role": "user", "content": "?"}]}}


@pytest.fixture
def started():
    return []


@pytest.fixture
def client_of(registry, started):
    """OpenAI's client with a key, against the routes in this process."""
    app = FastAPI()
    add_errors(app)
    add_batches(app, registry.workspace, AccessList.of(registry), started.append)
    transport = httpx.ASGITransport(app)

    def client(key="-"):
        http = httpx.AsyncClient(transport=transport)
        return openai.AsyncOpenAI(base_url="http://box/v1", api_key=key, http_client=http, max_retries=0)

    return client


@pytest.fixture
def anyio_backend():
    return "asyncio"


pytestmark = pytest.mark.anyio


async def sent(client, rows=(LINE,)):
    content = "\n".join(map(json.dumps, rows)).encode()
    return await client.files.create(file=("asked.jsonl", content), purpose="batch")


async def test_a_batch_from_the_file_to_the_answers(client_of, registry, started):
    key = add_grant(registry, "jane", ["hr"])
    client = client_of(key)
    file = await sent(client)
    batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert (batch.status, started) == ("validating", [batch.id])
    batches = Batches(registry.workspace).owner_of(batch.id)
    (line,) = batches.unanswered(batch.id)
    batches.write_part(batch.id, [answered(line, status=200, request_id="r1", body={"model": "large@1"})])
    batches.finish(batch.id)
    done = await client.batches.retrieve(batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 1)
    row = json.loads((await client.files.content(done.output_file_id)).text)
    assert (row["custom_id"], row["response"]["body"]) == ("q1", {"model": "large@1"})
    assert [each.id async for each in client.batches.list()] == [batch.id]
    assert {each.purpose async for each in client.files.list()} == {"batch", "batch_output"}
    assert (await client.files.delete(file.id)).deleted


async def test_lists_come_in_pages(client_of, started):
    client = client_of()
    file = await sent(client)
    given = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    made = {(await client.batches.create(**given)).id for _ in "abc"}
    page = await client.batches.list(limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    assert {each.id async for each in page} == made == set(started)


async def test_keys_keep_apart_and_faults_are_sentences(client_of, registry, started):
    file = await sent(client_of(add_grant(registry, "jane", ["hr"])))
    stranger = client_of()
    with pytest.raises(openai.NotFoundError, match="of yours"):
        await stranger.files.content(file.id)
    with pytest.raises(openai.NotFoundError, match="of yours"):
        await stranger.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="purpose=batch"):
        await stranger.files.create(file=("x", b"x"), purpose="fine-tune")
    faulty = await sent(stranger, [LINE, LINE])
    batch = await stranger.batches.create(input_file_id=faulty.id, endpoint=CHAT, completion_window="24h")
    assert (batch.status, batch.errors.data[0].line) == ("failed", 2)
    assert started == []


async def test_a_batch_is_given_up(client_of, started):
    client = client_of()
    batch = await client.batches.create(
        input_file_id=(await sent(client)).id, endpoint=CHAT, completion_window="24h", metadata={"team": "law"}
    )
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    assert (await client.batches.retrieve(batch.id)).metadata == {"team": "law"}
