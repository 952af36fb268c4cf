"""A model's answer while it comes: its pieces go out, and something may cut it short.

Guarantees: what was said before a cut (a spent budget, the time limit, an engine that failed) is the answer, ends with
``length``, and has its receipt like any other; of several answers each is cut by itself, though nothing was said of it;
whoever does not take the pieces holds up the engine, not memory; ending the request closes the engine's stream. Not
guaranteed: the exact tokens of an answer that was cut: of pieces that do not say their tokens, four bytes count as one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from app.inference.chat_format import Prompt
from app.inference.sampling import Delta, Generation, Sampling, TokenLogprob, calls_of
from app.serving.cascade import Backends
from app.serving.errors import ApiError, as_api_error, timed_out
from app.serving.wrapped import UNSURE_LOGPROB, Wrapped

Emit = Callable[[Delta], Awaitable[None]]
BYTES_PER_TOKEN = 4


@dataclass
class Said:
    """What was said so far."""

    pieces: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    num_tokens: int = 0
    num_passages: int = 0

    def add(self, delta: Delta) -> None:
        """One piece more."""
        self.pieces.append(delta.text)
        self.tokens += delta.tokens
        self.calls += delta.tool_calls
        self.num_tokens += num_tokens_of(delta)
        self.num_passages = delta.num_passages

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self.pieces)

    def generation(self, num_prompt_tokens: int) -> Generation:
        """The answer as far as it came."""
        logprobs = [each.logprob for each in self.tokens] or [UNSURE_LOGPROB]
        return Generation(
            text=self.text,
            mean_logprob=sum(logprobs) / len(logprobs),
            min_logprob=min(logprobs),
            num_prompt_tokens=num_prompt_tokens,
            num_completion_tokens=self.num_tokens,
            finish_reason="length",
            tokens=tuple(self.tokens),
            tool_calls=calls_of(self.calls),
            num_passages=self.num_passages,
        )


class Live(Wrapped):
    """Backends whose ``generate`` streams, and hands every piece to ``emit``."""

    def __init__(
        self,
        inner: Backends,
        emit: Emit,
        *,
        end_s: float,
        limit_s: float,
        num_prompt_tokens: int,
        allow: Callable[[int], Awaitable[None]],
        choices: Sequence["Live"],
    ) -> None:
        """Take what limits the answer.

        Args:
            end_s: by the loop's clock, when the time limit of ``limit_s`` is over.
            num_prompt_tokens: an estimate, for an answer that is cut.
            allow: is told the number of tokens so far before they go out; an ApiError of it cuts the answer.
            choices: all answers to the request; where one of them has begun, a failure cuts this one alone.
        """
        super().__init__(inner)
        self._emit, self._end_s, self._limit_s = emit, end_s, limit_s
        self._num_prompt_tokens, self._allow = num_prompt_tokens, allow
        self._choices, self.said = choices, Said()
        self.cut: ApiError | None = None

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        async with aclosing(self._inner.stream(rung, model, prompt, sampling)) as deltas:
            while True:
                try:
                    delta = await self._next(deltas)
                    await self._allow(self.said.num_tokens + num_tokens_of(delta))
                except Exception as error:
                    if not any(each.said.pieces for each in self._choices):
                        raise
                    self.cut = as_api_error(error)
                    return self.said.generation(self._num_prompt_tokens)
                self.said.add(delta)
                await self._emit(delta)
                if delta.whole is not None:
                    calls = calls_of(self.said.calls)
                    return replace(delta.whole, text=self.said.text, tokens=tuple(self.said.tokens), tool_calls=calls)

    async def _next(self, deltas: AsyncIterator[Any]) -> Delta:
        try:
            async with asyncio.timeout_at(self._end_s):
                delta: Delta = await anext(deltas)
        except TimeoutError as error:
            raise timed_out(self._limit_s) from error
        return delta


def num_tokens_of(delta: Delta) -> int:
    """Tokens of a piece; of one that does not say them, an estimate."""
    num_bytes = len(delta.text.encode()) + sum(len(str(call.get("function") or "")) for call in delta.tool_calls)
    return len(delta.tokens) or (max(num_bytes // BYTES_PER_TOKEN, 1) if num_bytes else 0)
