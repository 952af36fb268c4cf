"""Backends around backends: what one request changes of them (its form, its stream) without the cascade knowing."""

from collections.abc import AsyncGenerator, Sequence

from app.inference.sampling import Delta, Generation, Sampling
from app.retrieval.filters import Scope
from app.serving.cascade import Backends, Extract, Retrieval
from app.serving.embeddings import Embedded
from app.serving.release import Prompt, Release
from app.serving.schema import Passage


class Wrapped:
    """Hands every call on as it is."""

    def __init__(self, inner: Backends) -> None:
        self._inner = inner

    async def retrieve(self, index: str, question: str, top_k: int, scope: Scope) -> Retrieval:
        return await self._inner.retrieve(index, question, top_k, scope)

    async def embed(self, index: str, texts: Sequence[str]) -> Embedded:
        return await self._inner.embed(index, texts)

    async def lacks(self, rung: str, model: str, sampling: Sampling) -> tuple[str, ...]:
        return await self._inner.lacks(rung, model, sampling)

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        return await self._inner.generate(rung, model, prompt, sampling)

    def stream(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        return self._inner.stream(rung, model, prompt, sampling)

    async def read(self, question: str, passages: Sequence[Passage]) -> Extract:
        return await self._inner.read(question, passages)

    async def preload(self, release: Release) -> None:
        await self._inner.preload(release)
