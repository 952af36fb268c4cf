"""Backends around backends: what one request changes of them (its form, its stream) without the cascade knowing."""

from collections.abc import AsyncGenerator, Sequence

from app.inference.chat_format import Prompt
from app.inference.sampling import Delta, Generation, PromptTooLong, Sampling
from app.retrieval.filters import Scope
from app.serving.cascade import Backends, Extract, Retrieval
from app.serving.embeddings import Embedded
from app.serving.release import Release
from app.serving.schema import Passage

UNSURE_LOGPROB = -20.0
"""Stands for the log-probabilities of an answer that an engine did not give, or not whole."""


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


class Passing(Wrapped):
    """For the router: a model that cannot read a prompt this long has no answer, so that the next one is asked."""

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        try:
            return await super().generate(rung, model, prompt, sampling)
        except PromptTooLong:
            return Generation(
                text="",
                mean_logprob=UNSURE_LOGPROB,
                min_logprob=UNSURE_LOGPROB,
                num_prompt_tokens=0,
                num_completion_tokens=0,
                finish_reason="length",
            )
