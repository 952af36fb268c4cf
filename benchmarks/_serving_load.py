"""Users of a chat endpoint: so many at once (closed loop) or so many a second (open loop), and what they saw.

Closed loop: each user asks again when it has its answer. Open loop: requests come at random times (exponential gaps),
whether or not earlier ones are answered, so that a queue shows; latency counts from the time at which a request was
due (Tene 2013, coordinated omission). A retried request is one request; what no retry saved is lost.
"""

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import Any

import httpx

CHAT = "/v1/chat/completions"
RETRIED = {429, 500, 502, 503, 504}
"""Statuses after which a client asks again, as OpenAI's does."""
PAUSE_S = 0.25
GIVE_UP_S = 60.0


@dataclass
class Reply:
    """One request as its user saw it; times are those of ``time.perf_counter``, in seconds."""

    due_s: float
    ended_s: float = 0.0
    pieces_s: list[float] = field(default_factory=list)
    """When each piece of a streamed answer came."""

    num_tokens: int = 0
    cost_usd: float = 0.0
    status: int = 0
    request_id: str = ""
    num_retries: int = 0

    @property
    def ok(self) -> bool:
        """Whether it was answered whole."""
        return self.status == 200


class Users:
    """Ask an application from one event loop; ``retries`` as a client that knows which errors to retry."""

    def __init__(
        self,
        url: str,
        bodies: Sequence[Mapping[str, Any]],
        *,
        retries: bool = False,
        give_up_s: float = GIVE_UP_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take whom to ask what.

        Args:
            give_up_s: how long a user waits for an answer, and asks again.
            transport: takes the network's place, for an application in this process.
        """
        self._url, self._bodies, self._retries, self._transport = url, bodies, retries, transport
        self._give_up_s = give_up_s

    def closed(self, *, in_flight: int, seconds: float) -> list[Reply]:
        """Answers to so many users, each of whom asks until the time is over."""
        return asyncio.run(self._closed(in_flight, seconds))

    def open(self, *, rate_per_s: float, seconds: float, seed: int) -> list[Reply]:
        """Answers to requests that came at random times, so many a second."""
        return asyncio.run(self._open(rate_per_s, seconds, random.Random(seed)))

    async def _closed(self, in_flight: int, seconds: float) -> list[Reply]:
        end_s, given, bodies = time.perf_counter() + seconds, list[Reply](), cycle(self._bodies)

        async def user(http: httpx.AsyncClient) -> None:
            while time.perf_counter() < end_s:
                given.append(await self._ask(http, next(bodies), time.perf_counter()))

        async with self._client() as http:
            await asyncio.gather(*(user(http) for _ in range(in_flight)))
        return given

    async def _open(self, rate_per_s: float, seconds: float, rng: random.Random) -> list[Reply]:
        due_s = start_s = time.perf_counter()
        bodies, asked = cycle(self._bodies), list[asyncio.Task[Reply]]()
        async with self._client() as http:
            while due_s - start_s < seconds:
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                asked.append(asyncio.create_task(self._ask(http, next(bodies), due_s)))
                due_s += rng.expovariate(rate_per_s)
            return list(await asyncio.gather(*asked))

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(
            base_url=self._url, timeout=self._give_up_s, limits=limits, trust_env=False, transport=self._transport
        )

    async def _ask(self, http: httpx.AsyncClient, body: Mapping[str, Any], due_s: float) -> Reply:
        reply = Reply(due_s)
        while True:
            await self._try(http, body, reply)
            reply.ended_s = time.perf_counter()
            again = reply.status in RETRIED or not reply.status
            if not self._retries or not again or reply.ended_s - due_s > self._give_up_s:
                return reply
            reply.num_retries += 1
            await asyncio.sleep(PAUSE_S)

    async def _try(self, http: httpx.AsyncClient, body: Mapping[str, Any], reply: Reply) -> None:
        reply.status, reply.pieces_s = 0, []
        try:
            if body.get("stream"):
                await self._stream(http, body, reply)
            else:
                _note(reply, await http.post(CHAT, json=body))
        except (httpx.TransportError, ValueError):
            reply.status = 0

    async def _stream(self, http: httpx.AsyncClient, body: Mapping[str, Any], reply: Reply) -> None:
        async with http.stream("POST", CHAT, json=body) as response:
            async for event in _events(response):
                if any(choice["delta"].get("content") for choice in event.get("choices", ())):
                    reply.pieces_s.append(time.perf_counter())
                reply.num_tokens = (event.get("usage") or {}).get("completion_tokens", reply.num_tokens)
            reply.status = response.status_code


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _note(reply: Reply, response: httpx.Response) -> None:
    reply.status = response.status_code
    if response.status_code == 200:
        said = response.json()
        reply.num_tokens, reply.request_id = said["usage"]["completion_tokens"], said["id"].partition("-")[2]
        reply.cost_usd = said["signalbox"]["cost_usd"]


def summary(replies: Sequence[Reply]) -> dict[str, Any]:
    """Rates, latencies in ms, the cost of 1,000 answers, and how many requests ended in which error."""
    good = [reply for reply in replies if reply.ok]
    errors = Counter(str(reply.status) for reply in replies if not reply.ok)
    if len(good) < 2:
        return {"num_answers": len(good), "errors": dict(errors)}
    seconds = max(reply.ended_s for reply in good) - min(reply.due_s for reply in good)
    figures = {
        "num_answers": len(good),
        "errors": dict(errors),
        "requests_per_s": len(good) / seconds,
        "tokens_per_s": sum(reply.num_tokens for reply in good) / seconds,
        **quantiles("latency", [reply.ended_s - reply.due_s for reply in good]),
        "usd_per_1k_answers": 1000 * statistics.mean(reply.cost_usd for reply in good),
    }
    pieces = [reply.pieces_s for reply in good if len(reply.pieces_s) > 1]
    if pieces:
        figures |= quantiles("first_token", [reply.pieces_s[0] - reply.due_s for reply in good if reply.pieces_s])
        gaps = [late - early for each in pieces for early, late in pairwise(each)]
        figures |= quantiles("inter_token", gaps)
    return figures


def quantiles(name: str, times_s: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile in ms."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return {f"{name}_p{percent}_ms": 1000 * cuts[percent - 1] for percent in (50, 95, 99)}
