"""What the models of a request took so far, for an answer that does not come about.

Guarantees: a call that ended counts with its tokens; one that was cut off with what came of it, at least its prompt;
one that failed before anything came counts nothing. Not guaranteed: the exact tokens of a call that was cut off.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from app.inference.chat_format import Prompt
from app.inference.sampling import Delta, Generation, Sampling
from app.serving.cascade import Backends
from app.serving.limits import Amounts
from app.serving.live import num_tokens_of
from app.serving.plan import Plan
from app.serving.wrapped import Wrapped


@dataclass
class Call:
    """One call of a model: its tokens, as far as they are known, and what 1,000 of them cost."""

    num_tokens: int
    usd_per_1k_tokens: float


@dataclass
class Spending:
    """The calls of one request."""

    calls: list[Call] = field(default_factory=list)

    @property
    def amounts(self) -> Amounts:
        """What all calls came to."""
        usd = sum(each.num_tokens * each.usd_per_1k_tokens for each in self.calls) / 1000
        return Amounts(sum(each.num_tokens for each in self.calls), usd)


class Counted(Wrapped):
    """Backends that note what each call of a model takes."""

    def __init__(self, inner: Backends, spending: Spending, plan: Plan) -> None:
        """``plan`` says the prices, and how long the prompt of a call that is cut off was."""
        super().__init__(inner)
        self._spending, self._plan = spending, plan

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        call = self._begin(rung)
        try:
            given = await super().generate(rung, model, prompt, sampling)
        except Exception:
            call.num_tokens = 0
            raise
        call.num_tokens = given.num_prompt_tokens + given.num_completion_tokens
        return given

    async def stream(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        call, has_begun = self._begin(rung), False
        try:
            async with aclosing(super().stream(rung, model, prompt, sampling)) as deltas:
                async for delta in deltas:
                    has_begun = True
                    call.num_tokens += num_tokens_of(delta)
                    if (whole := delta.whole) is not None:
                        call.num_tokens = whole.num_prompt_tokens + whole.num_completion_tokens
                    yield delta
        except Exception:
            if not has_begun:
                call.num_tokens = 0
            raise

    def _begin(self, rung: str) -> Call:
        call = Call(self._plan.num_prompt_tokens, self._plan.release.price(rung))
        self._spending.calls.append(call)
        return call
