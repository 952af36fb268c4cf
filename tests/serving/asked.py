"""Asking the application without a network: whole answers, streams, proofs of receipts; and clients that misbehave."""

import asyncio
import json

import httpx

from app.ledger.receipts import HEADER, check_receipt, read_header
from app.serving.http import create_app
from app.serving.streams import response_of_stream
from tests.serving.test_gateway import wait_for

QUESTION = [{"role": "user", "content": "What is the fee?"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def post(gateway, path, body, headers=None):
    """The response to one request; ``body`` is JSON, or bytes as they are."""

    async def run():
        transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
            given = {"content-type": "application/json", **(headers or {})}
            return await client.post(path, headers=given, **sent)

    return asyncio.run(run())


def ask(gateway, headers=None, *, path=CHAT, **body):
    """A chat completion's response, or a completion's."""
    question = {"messages": QUESTION} if path == CHAT else {"prompt": "What is the fee?"}
    return post(gateway, path, {"model": "small", **question, **body}, headers)


def events_of(response):
    """The chunks of a stream, which ends as it should."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(events):
    """The text of a stream's first choice."""
    choices = [choice for event in events for choice in event.get("choices", []) if choice["index"] == 0]
    return "".join(choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices)


def proven(request_log, registry, response, body):
    """What the receipt of a response proves, its request and its whole answer opened."""
    if response.headers["content-type"].startswith("text/event-stream"):
        events = events_of(response)
        said = response_of_stream(events)
        header = next(event["receipt"] for event in events if "receipt" in event)
    else:
        said, header = response.json(), response.headers[HEADER]
    name = read_header(header)["id"]
    wait_for(lambda: request_log.proof(name))
    verifier = registry.ledger.signer.public
    checked = check_receipt(request_log.proof(name), verifier=verifier, header=header, request=body, response=said)
    assert checked.faults == []
    return list(checked.proven)


class Client:
    """An ASGI client that sends a body in parts and may go away or stop reading."""

    def __init__(self, body, *, leave_after=None, read=None, parts=1, pause_s=0.0):
        data = json.dumps(body).encode()
        size = max(len(data) // parts, 1)
        self._parts = [data[start : start + size] for start in range(0, len(data), size)]
        self.num_sent, self.messages, self._leave_after, self._read = 0, [], leave_after, read
        self.left, self._pause_s = asyncio.Event(), pause_s

    async def call(self, app, path=CHAT, headers=()):
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": list(headers)}
        await app({**scope, "http_version": "1.1", "scheme": "http", "server": ("box", 80)}, self.receive, self.send)

    async def receive(self):
        if self.num_sent < len(self._parts):
            await asyncio.sleep(self._pause_s)
            self.num_sent += 1
            more = self.num_sent < len(self._parts)
            return {"type": "http.request", "body": self._parts[self.num_sent - 1], "more_body": more}
        if self._leave_after is None or len(self.messages) < self._leave_after:
            await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if self._read is not None and len(self.messages) >= self._read:
            await asyncio.Event().wait()
        self.messages.append(message)
        if self._leave_after is not None and len(self.messages) >= self._leave_after:
            self.left.set()

    @property
    def status(self):
        return self.messages[0]["status"]

    @property
    def error(self):
        """The error object of a refusal."""
        return json.loads(self.messages[1]["body"])["error"]
