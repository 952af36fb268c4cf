"""What a text engine is asked for, and what it gives: the contract of engines, cascade and gateway.

Engines say what they lack by the names of ``Sampling``'s fields; whoever asked decides whether to do without. Imports
no engine, so that the gateway needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from app.core.errors import UsageError

FinishReason = Literal["stop", "length", "tool_calls"]
TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
"""Fields of ``Sampling`` that only an engine with tools has."""
MAX_TEMPERATURE, MAX_STOPS, MAX_LOGPROBS = 2.0, 16, 20


class RequestRefused(UsageError):
    """What answers says that the request is wrong: the message is its own."""


class SamplingInvalid(UsageError):
    """A sampling parameter is out of its range: ``name`` is its name, the message says what it may be."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, str(self).removeprefix(f"{self.name}: "))


class PromptTooLong(UsageError):
    """A prompt and its answer are longer than what the model reads; the message says how long."""

    @classmethod
    def of(cls, num_tokens: int, max_new_tokens: int, limit: int) -> PromptTooLong:
        """The error of a prompt, in tokens of the model."""
        wanted = f"the prompt has {num_tokens} tokens, the answer may have {max_new_tokens}"
        return cls(f"{wanted}; together this model reads {limit}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn; the defaults are a short greedy one.

    Raises:
        SamplingInvalid: a value is out of its range.
    """

    max_new_tokens: int = 32
    """Upper bound of the answer, in tokens."""

    temperature: float = 0.0
    """0: the most likely token each time; else what logits are divided by before one is drawn."""

    top_p: float = 1.0
    """Draw among the most likely tokens that together have this probability (nucleus sampling)."""

    seed: int | None = None
    """The same seed, prompt and model draw the same answer; None: another one each time."""

    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""

    num_logprobs: int = -1
    """-1: no log-probabilities; k >= 0: the chosen token's and those of the k most likely ones."""

    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    """JSON schema that the answer must satisfy."""

    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """What the model may call, in OpenAI's form."""

    tool_choice: str | Mapping[str, Any] | None = field(default=None, hash=False)
    """Whether it must call one, and which; None: as the engine has it."""

    parallel_tool_calls: bool | None = None
    """Whether it may call several at once."""

    def __post_init__(self) -> None:
        rules = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature <= MAX_TEMPERATURE, f"from 0 to {MAX_TEMPERATURE:g}"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "seed": (self.seed is None or -(2**63) <= self.seed < 2**63, "a whole number of 64 bits"),
            "stop": (all(self.stop) and len(self.stop) <= MAX_STOPS, f"at most {MAX_STOPS} strings, none empty"),
            "num_logprobs": (-1 <= self.num_logprobs <= MAX_LOGPROBS, f"at most {MAX_LOGPROBS}"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise SamplingInvalid(name, f"give {rule}, not {getattr(self, name)!r}")

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the fields that ask for more than a greedy answer of some length."""
        return tuple(
            each.name
            for each in fields(self)
            if each.name != "max_new_tokens" and getattr(self, each.name) != each.default
        )

    def without(self, names: Iterable[str]) -> Sampling:
        """The same with the fields of those names at their defaults."""
        defaults: dict[str, Any] = {each.name: each.default for each in fields(self)}
        return replace(self, **{name: defaults[name] for name in names})


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer and its natural log-probability by the model, before temperature and top_p."""

    text: str
    raw: bytes
    """The token's bytes: those of several tokens together spell a character that one alone does not."""

    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The most likely tokens at this place, best first, as many as were asked for."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """An answer; mean and least log-probability are natural, over the completion's tokens with the end token."""

    text: str
    mean_logprob: float
    min_logprob: float
    num_prompt_tokens: int
    num_completion_tokens: int
    finish_reason: FinishReason = "stop"
    num_cached_tokens: int = 0
    """Tokens of the prompt that the engine had worked through before."""

    tokens: tuple[TokenLogprob, ...] = ()
    """The completion's tokens with their log-probabilities, where they were asked for."""

    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """What the model calls before it goes on, in OpenAI's form: ``id``, ``type``, ``function``."""

    num_passages: int = 0
    """The prompt's passages that there was room for."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A piece of an answer as it comes. The pieces' texts together are the whole's; the last one carries the whole."""

    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Pieces of calls, each with the ``index`` of its call."""

    num_passages: int = 0
    """As the whole has it; every piece says it."""

    whole: Generation | None = None


def calls_of(pieces: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The calls that pieces of a stream spell; names and arguments come in parts."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        call = calls.setdefault(piece["index"], {"id": "", "type": "function", "function": {}})
        call["id"], call["type"] = piece.get("id") or call["id"], piece.get("type") or call["type"]
        spelled = piece.get("function") or {}
        for name in ("name", "arguments"):
            if name in spelled:
                call["function"][name] = call["function"].get(name, "") + (spelled[name] or "")
    return tuple(calls[index] for index in sorted(calls))
