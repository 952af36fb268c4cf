"""Completions as they are asked for, in OpenAI's two forms, and what both come to: one ``Asked``.

The rule for parameters. What the gateway understands is done, or handed to the model's engine. What nobody here has
(tools, penalties, a logit bias, unknown names) or this model's engine lacks is refused by name, unless it has its
neutral value; with ``"drop_params": true`` it is left out instead, and the response's account names it. What does not
change an answer (``user``, ``metadata``, ``store``) is accepted. Nothing else is ignored in silence.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from app.inference.chat import Message as Turn
from app.inference.conversation import Conversation
from app.inference.sampling import Sampling, SamplingInvalid
from app.serving.errors import ApiError, invalid
from app.serving.schema import Text, whole
from app.serving.structured import ResponseFormat

MAX_CHOICES = 16
MAX_TOOLS = 128
MAX_TAGS = 10
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "functions": ([], None),
    "function_call": ("none", "auto", None),
    "modalities": (["text"], None),
    "echo": (False, None),
    "best_of": (1, None),
    "suffix": ("", None),
}
"""Parameters that no engine has, with the values at which they change nothing."""
HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
NAMES = {"num_logprobs": "logprobs", "schema": "response_format", "max_new_tokens": "max_tokens"}
"""Fields of ``Sampling`` that OpenAI calls otherwise."""


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool = False


class Called(BaseModel):
    """A function that was called, with its arguments as JSON."""

    name: Text
    arguments: Text


class ToolCall(BaseModel):
    """A call that a model made."""

    id: Text
    type: Literal["function"] = "function"
    function: Called


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = Field(default=None, max_length=64)
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """The message's text; parts of another type are refused."""
        if not isinstance(self.content, list):
            return whole(self.content or "")
        for part in self.content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = f"a part of type {str(part.get('type'))[:40]!r}"
                raise invalid(f"only text parts are understood, not {kind}: send text alone", param="messages")
        return whole("\n".join(part["text"] for part in self.content))

    def turn(self) -> Turn:
        """The message as a model gets it."""
        role = "system" if self.role == "developer" else self.role
        turn: dict[str, Any] = {"role": role, "content": self.text()}
        turn |= {"name": whole(self.name)} if self.name else {}
        turn |= {"tool_calls": [each.model_dump() for each in self.tool_calls]} if self.tool_calls else {}
        return turn | ({"tool_call_id": self.tool_call_id} if self.role == "tool" else {})


@dataclass(frozen=True)
class Asked:
    """A completion as it will be answered; ``dropped`` names the parameters that were left out."""

    kind: Literal["chat", "text"]
    model: str
    conversation: Conversation
    sampling: Sampling
    num_choices: int = 1
    format: ResponseFormat = field(default_factory=ResponseFormat)
    stream: bool = False
    include_usage: bool = False
    tags: tuple[str, ...] = ()
    cache: str | None = None
    drop: bool = False
    dropped: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """What the user said last."""
        return self.conversation.question

    @property
    def described(self) -> str:
        """The tools as a model reads them; empty where there are none."""
        return json.dumps(self.sampling.tools, ensure_ascii=False) if self.sampling.tools else ""

    @property
    def num_chars(self) -> int:
        """Characters of the turns and of the tools."""
        return self.conversation.num_chars + len(self.described)


class Completion(BaseModel):
    """What chat completions and completions have in common."""

    model_config = ConfigDict(extra="allow")

    model: str = "signalbox"
    n: int | None = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    max_tokens: PositiveInt | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    cache: Literal["off", "exact", "semantic"] | None = None
    drop_params: bool = False

    def conversation(self) -> Conversation:
        """What is answered: the turns, with the question."""
        raise NotImplementedError

    def asked(self, longest: int) -> Asked:
        """The request as it will be answered.

        Args:
            longest: upper bound of an answer, in tokens; more cannot be asked for.

        Raises:
            ApiError: something is asked for that nobody here has, or is out of its range.
        """
        extra = self.model_extra or {}
        unknown = tuple(name for name in extra if name not in HARMLESS and extra[name] not in NEUTRAL.get(name, ()))
        if unknown and not self.drop_params:
            raise lacking(unknown[0], "here")
        return Asked(
            kind=self.kind(),
            model=self.model,
            conversation=self.conversation(),
            sampling=self._sampling(longest),
            num_choices=self.n or 1,
            format=self.format(),
            stream=bool(self.stream),
            include_usage=bool(self.stream_options and self.stream_options.include_usage),
            tags=tags_of(extra.get("metadata")),
            cache=self.cache,
            drop=self.drop_params,
            dropped=unknown,
        )

    def kind(self) -> Literal["chat", "text"]:
        """Which of the two forms this is."""
        return "text"

    def format(self) -> ResponseFormat:
        """The form that the answer must have."""
        return ResponseFormat()

    def tooling(self) -> Mapping[str, Any]:
        """The fields of ``Sampling`` that say what may be called."""
        return {}

    def num_logprobs(self) -> int:
        """As ``Sampling`` has it."""
        return -1

    def longest(self) -> int | None:
        """The bound that the request names, in tokens."""
        return self.max_tokens

    def _sampling(self, longest: int) -> Sampling:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        try:
            return Sampling(
                max_new_tokens=min(self.longest() or longest, longest),
                temperature=0.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                seed=self.seed,
                stop=tuple(map(whole, stop)),
                num_logprobs=self.num_logprobs(),
                schema=self.format().schema,
                **self.tooling(),
            )
        except SamplingInvalid as error:
            name = NAMES.get(error.name, error.name)
            raise invalid(f"{name}{str(error).removeprefix(error.name)}", param=name) from error


class ChatRequest(Completion):
    """A chat completion: all turns that say something reach the model; what the user said last is the question."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    def conversation(self) -> Conversation:
        turns = [message.turn() for message in self.messages]
        asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
        if not asked or not turns[asked[-1]]["content"].strip():
            raise invalid("there is no question: the last user message must hold some text", param="messages")
        check_end(turns)
        check_results(turns)
        turns[asked[-1]] = {**turns[asked[-1]], "content": turns[asked[-1]]["content"].strip()}
        kept = [turn for turn in turns if turn["content"].strip() or turn["role"] == "tool" or "tool_calls" in turn]
        check_end(kept)
        return Conversation(tuple(kept))

    def tooling(self) -> Mapping[str, Any]:
        if not self.tools:
            if self.tool_choice not in (None, "none", "auto"):
                raise invalid("tool_choice chooses among tools: send them too", param="tool_choice")
            if self.conversation().calls_tools:
                raise invalid("turns that call tools are read with `tools`: send these too", param="tools")
            return {}
        if not all(map(is_tool, self.tools)):
            form = '{"type": "function", "function": {"name": ...}}'
            raise invalid(f"each of tools is {form}: send them in this form", param="tools")
        asked = json.dumps([self.tools, self.tool_choice], ensure_ascii=False)
        if whole(asked) != asked:
            raise invalid("tools hold half of a character (a surrogate): send it whole", param="tools")
        more = {name: getattr(self, name) for name in ("tool_choice", "parallel_tool_calls")}
        return {"tools": tuple(self.tools), **more}

    def kind(self) -> Literal["chat", "text"]:
        return "chat"

    def format(self) -> ResponseFormat:
        return ResponseFormat.of(self.response_format)

    def num_logprobs(self) -> int:
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: set `logprobs` to true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else -1

    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Completion):
    """A completion of one prompt, which is answered as a question."""

    prompt: Any
    logprobs: int | None = Field(default=None, ge=0, le=5)

    def conversation(self) -> Conversation:
        given = self.prompt[0] if isinstance(self.prompt, list) and len(self.prompt) == 1 else self.prompt
        if not isinstance(given, str):
            raise invalid(
                "send one text as the prompt; several texts and token arrays are not understood", param="prompt"
            )
        if not whole(given).strip():
            raise invalid("there is no question: the prompt must hold some text", param="prompt")
        return Conversation.of(whole(given).strip())

    def num_logprobs(self) -> int:
        return -1 if self.logprobs is None else self.logprobs


def is_tool(given: Mapping[str, Any]) -> bool:
    """Whether this describes a function; of its parameters the model's server judges."""
    function = given.get("function")
    return given.get("type") == "function" and isinstance(function, Mapping) and isinstance(function.get("name"), str)


def check_end(turns: Sequence[Turn]) -> None:
    """Refuse turns that leave nothing to answer."""
    if turns[-1]["role"] == "assistant":
        said = "the last message is an assistant's, which nothing answers: end with a user's"
        raise invalid(said, param="messages")


def check_results(turns: Sequence[Turn]) -> None:
    """Refuse what a tool gave where no assistant's turn before it has called for it."""
    called: set[str] = set()
    for place, turn in enumerate(turns):
        called |= {call["id"] for call in turn.get("tool_calls", ())}
        if turn["role"] == "tool" and turn["tool_call_id"] not in called:
            said = f"messages[{place}] is what a tool gave, and no assistant's turn before it calls for that"
            raise invalid(f"{said}: send its `tool_call_id` and the turn with its `tool_calls`", param="messages")


def lacking(name: str, where: str) -> ApiError:
    """A parameter is asked for that is not there."""
    shown = name[:80]
    said = f"{shown!r} is not supported {where}: leave it out, or send `drop_params: true` to have it dropped"
    error = invalid(said, param=shown)
    error.code = "unsupported_parameter"
    return error


def tags_of(given: Any) -> tuple[str, ...]:
    """Tags in a request's ``metadata`` (``{"tags": ["a", "b"]}`` or ``{"tags": "a,b"}``), or in a header.

    Raises:
        ApiError: they are something else, or too many.
    """
    found = given.get("tags", ()) if isinstance(given, Mapping) else given or ()
    tags = [tag.strip() for tag in found.split(",")] if isinstance(found, str) else found
    if not isinstance(tags, list | tuple) or len(tags) > MAX_TAGS or not all(isinstance(tag, str) for tag in tags):
        raise invalid(f"tags are up to {MAX_TAGS} texts: send a list, or one text with commas", param="metadata")
    return tuple(dict.fromkeys(whole(tag)[:100] for tag in tags if tag))
