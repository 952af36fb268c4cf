"""The application in one process, without Serve and HTTP: what answers batches.

Guarantees: a request goes through the gateway that serves users, with its log, receipts, limits and access labels; one
that names no model of its own is answered by the large one. Not guaranteed: fast answers; models are loaded here once
more.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from app.inference.chat_format import Prompt
from app.inference.sampling import Delta, Generation, Sampling
from app.ledger.access_book import Grant
from app.retrieval.filters import Scope
from app.serving import replicas
from app.serving.access import AccessList
from app.serving.assembly import Assembly
from app.serving.batches import Line, answered
from app.serving.body import parse
from app.serving.cascade import Extract, Retrieval
from app.serving.embeddings import Embedded
from app.serving.errors import RATE_LIMITED, ApiError, NoRelease, invalid, no_key
from app.serving.exchange import Incoming
from app.serving.release import ROUTED, Release
from app.serving.requests import ChatRequest, CompletionRequest
from app.serving.schema import Passage
from app.serving.settings import ServingSettings

LOOK_S = 2.0
"""How often a line that waits looks whether its batch was given up."""
PATIENT = "large"
"""The model for whom nobody waits."""


class Here:
    """The cascade's backends in this process."""

    def __init__(self, settings: ServingSettings) -> None:
        self._retriever = replicas.Retriever(settings)
        self._generators = {rung: replicas.Generator(rung, settings) for rung in settings.rungs}
        self._reader = replicas.Reader(self._retriever.encode)

    async def retrieve(self, index: str, question: str, top_k: int, scope: Scope) -> Retrieval:
        asked = replicas.Asked(index, question, top_k, scope)
        return (await asyncio.to_thread(self._retriever.retrieve, [asked]))[0]

    async def embed(self, index: str, texts: Sequence[str]) -> Embedded:
        return await asyncio.to_thread(self._retriever.embed, index, texts)

    async def lacks(self, rung: str, model: str, sampling: Sampling) -> tuple[str, ...]:
        return await self._generators[rung].lacks(model, sampling)

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        return await self._generators[rung].generate(model, prompt, sampling)

    async def stream(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        async with aclosing(self._generators[rung].stream(model, prompt, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    async def read(self, question: str, passages: Sequence[Passage]) -> Extract:
        return await asyncio.to_thread(self._reader.read, question, passages)

    async def preload(self, release: Release) -> None:
        """Versions are loaded when they are asked for."""


class Deputies(AccessList):
    """Stands for keys that are not there to be shown: looks them up by the digest that a batch was taken on with."""

    def find(self, authorization: str | None) -> tuple[str, Grant] | None:
        """The grant of a digest; ApiError 401 when it was taken back since."""
        if not authorization:
            return None
        if (grant := self._current().get(authorization)) is None:
            raise no_key()
        return authorization, grant


class Offline:
    """Answers lines of batches for one owner."""

    def __init__(
        self, settings: ServingSettings, *, owner: str, given_up: Callable[[], object] = lambda: False
    ) -> None:
        """``given_up`` says whether waiting has become pointless; such lines are left unanswered."""
        self._given_up = given_up
        registry = replicas.registry_of(settings)
        self._owner = owner or None
        access = Deputies.of(registry)
        self._assembly = Assembly(settings, registry, Here(settings), access=access, with_canary=False)

    async def take(self, release: str) -> None:
        """Answer under this release from now on; NoRelease when it cannot be."""
        gateway = self._assembly.gateway
        await gateway.take(release)
        if (status := await gateway.health())[0] != 200:
            raise NoRelease(str(status[1]["reason"]))

    async def answer(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """A line of output for each line, in order; a refusal is one too."""
        return [answer for answer in await asyncio.gather(*map(self._answer, lines)) if answer]

    async def _answer(self, line: Line) -> dict[str, Any] | None:
        """A rate limit is waited for; a spent budget is a refusal. None: given up meanwhile."""
        while True:
            request_id = uuid.uuid4().hex
            try:
                body = await self._complete(line.body, request_id)
            except ApiError as error:
                if error.code == RATE_LIMITED:
                    if await self._wait(float(error.headers["retry-after"])):
                        continue
                    return None
                return answered(line, status=error.status, request_id=request_id, body=error.body())
            return answered(line, status=200, request_id=request_id, body=body)

    async def _wait(self, seconds: float) -> bool:
        """Let time pass; False when the work was given up meanwhile."""
        end_s = time.monotonic() + seconds
        while not await asyncio.to_thread(self._given_up):
            if (left_s := end_s - time.monotonic()) <= 0:
                return True
            await asyncio.sleep(min(left_s, LOOK_S))
        return False

    async def _complete(self, body: dict[str, Any], request_id: str) -> Mapping[str, Any]:
        gateway = self._assembly.gateway
        named = body.get("model", ROUTED)
        if body.get("stream"):
            raise invalid("a batch does not stream: leave stream out", param="stream")
        release = await gateway.release()
        chosen = PATIENT if named == ROUTED and PATIENT in release.models else named
        form = ChatRequest if "messages" in body else CompletionRequest
        asked = parse(form, body | {"model": chosen})
        return (await gateway.complete(Incoming(asked, request_id, body, authorization=self._owner))).body

    def close(self) -> None:
        """Write what the log still holds."""
        self._assembly.close()
