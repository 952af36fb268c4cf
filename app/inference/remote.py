"""Text generation by servers that speak OpenAI's protocol: vLLM, Ray Serve LLM, Azure OpenAI, OpenAI itself.

The official client makes the calls and makes them again, with growing pauses and as `Retry-After` says. On top of it:
a second call when the first takes long, a breaker for each server, and the next server when one gives up.

Guarantees: the key comes from an environment variable and goes nowhere but into the request; an answer without
log-probabilities counts as one that the model was not sure of. Not guaranteed: which weights stand behind a server.
The digest of such a model is that of its description, and nothing proves that the server keeps to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from app.core.errors import SignalboxError, UsageError
from app.core.settings import Settings
from app.inference.chat import Turns
from app.inference.chat_format import Prompt
from app.inference.guarding import Breaker, hedged
from app.inference.pacing import Pace, at_once, paced
from app.inference.passages import Grounded, turns_of
from app.inference.sampling import (
    TOOLS,
    Delta,
    Generation,
    PromptTooLong,
    RequestRefused,
    Sampling,
    TokenLogprob,
    calls_of,
)

if TYPE_CHECKING:
    import httpx
    from openai import AsyncOpenAI

Item = TypeVar("Item")
REMOTE_FILE = "remote.json"
UNSURE = -20.0
"""Stands for the log-probability of an answer whose server gives none, so that no router trusts it."""
AT_ONCE = 8
"""Calls under way together when many prompts are asked at once."""
BAD = (400, 413, 422)
"""Statuses that say that the request is at fault: no other server is asked."""
BYTES_PER_TOKEN, TURN_TOKENS = 3, 16
"""Fewer bytes to a token than most texts have, and what the form of a turn may take."""
TOO_LONG = "context_length_exceeded"
"""What servers call a prompt that they cannot read whole."""


class RemoteKeyMissing(UsageError):
    """The environment variable that holds a server's key is not set: set it where the replicas run."""


class RemoteRefused(RequestRefused):
    """The server says that the request is wrong: the message is its own."""


class RemoteUnavailable(SignalboxError):
    """No server answered: the message says why each did not; try again later."""


class NoAnswer(SignalboxError):
    """What a server said with status 200 holds no answer, or half of one: look at what stands behind the address."""


class Server(Settings):
    """One server of a model."""

    base_url: str = Field(pattern=r"^https?://\S+$")
    """Up to and with `/v1`."""

    model: str = Field(min_length=1)
    """The model's name there."""

    api_key_env: str = Field(default="", pattern=r"^[A-Za-z_]?[A-Za-z0-9_]*$")
    """Environment variable that holds the key; empty: the server asks for none."""


class Remote(Settings):
    """A model behind servers, as it is registered: all that its digest stands for."""

    servers: tuple[Server, ...] = Field(min_length=1)
    """The first answers; each further one when those before it do not."""

    context_tokens: PositiveInt = 8192
    """Longest prompt and answer together."""

    usd_per_1k_tokens: NonNegativeFloat = 0.0
    """Price, prompt and completion alike; a release states the price that it is charged at."""

    lacks: tuple[Literal["temperature", "top_p", "seed", "stop", "num_logprobs", "schema", "tools"], ...] = ()
    """What the servers do not understand."""

    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the servers call the upper bound of an answer."""

    timeout_s: PositiveFloat = 60.0
    max_retries: NonNegativeInt = 2
    """Further calls to one server before the next one is asked."""

    hedge_after_s: PositiveFloat | None = None
    """How long a call may take before a second one goes out beside it; the first answer counts. Both are charged."""

    break_after: PositiveInt = 5
    """Failures in a row after which a server is left alone."""

    cool_s: PositiveFloat = 30.0
    """How long it is left alone."""


class OpenAIEngine:
    """A model behind servers, with the methods of every text engine.

    Args:
        transport: for tests: answers in the servers' place.
    """

    def __init__(self, remote: Remote, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._remote, self._transport = remote, transport
        self.max_context_tokens = remote.context_tokens
        self._keys = {server.api_key_env: _key(server) for server in remote.servers}
        self._breakers = [
            Breaker(num_failures=remote.break_after, cool_s=remote.cool_s) for _ in range(len(remote.servers))
        ]
        self._clients: weakref.WeakKeyDictionary[Any, list[AsyncOpenAI]] = weakref.WeakKeyDictionary()
        self._num_running = self._num_cancelled = 0
        self._lacking = frozenset([*remote.lacks, *(TOOLS if "tools" in remote.lacks else ())])

    stalled_s, num_failed = 0.0, 0
    """A server that does not answer runs into ``timeout_s``, and one that fails opens its breaker."""

    @property
    def steps(self) -> OpenAIEngine:
        """No other engine shares what this one waits for."""
        return self

    @property
    def load(self) -> tuple[int, int, int, int]:
        """Calls under way, none that wait here, and calls that were given up."""
        return self._num_running, 0, self._num_cancelled, 0

    def lacks(self, sampling: Sampling) -> tuple[str, ...]:
        """What is asked for and not there: names of ``Sampling``'s fields."""
        return tuple(name for name in sampling.asked if name in self._lacking)

    def count_tokens(self, text: str) -> int:
        """A rough length, four characters a token: the server's tokenizer is not known."""
        return -(-len(text) // 4)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, *, max_new_tokens: int = 32
    ) -> list[Generation]:
        """Answer every prompt; not to be called where an event loop runs. Raises as ``answer``."""
        sampling, gate = sampling or Sampling(max_new_tokens=max_new_tokens), asyncio.Semaphore(AT_ONCE)

        async def one(prompt: Prompt) -> Generation:
            async with gate:
                return await self.answer(prompt, sampling)

        async def all_of_them() -> list[Generation]:
            try:
                return list(await asyncio.gather(*map(one, prompts)))
            finally:  # the loop ends here, and with it what its clients' connections are good for
                for client in self._clients.pop(asyncio.get_running_loop(), []):
                    await client.close()

        return asyncio.run(all_of_them())

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """One answer; cancelling the call ends it at the server.

        Raises:
            PromptTooLong: the server says that it reads less.
            RemoteRefused: the request is wrong.
            RemoteUnavailable: no server answered.
        """

        async def with_passages(turns: Turns) -> Generation:
            async def ask(client: AsyncOpenAI, server: Server) -> Generation:
                return _generation(await client.chat.completions.create(**self._asked(server, turns, sampling)))

            answered: Generation = await self._chain(ask)
            return answered

        async with self._counted():
            answered, number = await self._fitted(prompt, sampling, with_passages)
            return replace(answered, num_passages=number)

    async def stream(self, prompt: Prompt, sampling: Sampling, *, pace: Pace = at_once) -> AsyncGenerator[Delta]:
        """An answer piece by piece, the last with the whole; closing the iterator ends it at the server.

        Another server is asked only before the first piece. Raises as ``answer``.
        """
        async with aclosing(paced(self._streamed(prompt, sampling), pace=pace)) as pieces:
            async for piece in pieces:
                yield piece

    async def _streamed(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        async def with_passages(turns: Turns) -> _Pieces:
            async def begin(client: AsyncOpenAI, server: Server) -> _Pieces:
                asked = self._asked(server, turns, sampling)
                asked |= {"stream": True, "stream_options": {"include_usage": True}}
                return await _Pieces(await client.chat.completions.create(**asked)).begun()

            begun: _Pieces = await self._chain(begin, discard=_Pieces.close)
            return begun

        async with self._counted():
            pieces, number = await self._fitted(prompt, sampling, with_passages)
            try:
                async for delta in pieces.deltas():
                    whole = delta.whole and replace(delta.whole, num_passages=number)
                    yield replace(delta, num_passages=number, whole=whole)
            except self._faults() as error:
                raise RemoteUnavailable(f"the stream broke off ({_said(error)}): ask again") from error
            finally:
                await pieces.close()

    async def _fitted(
        self, prompt: Prompt, sampling: Sampling, ask: Callable[[Turns], Awaitable[Item]]
    ) -> tuple[Item, int]:
        """What servers say to a prompt with as many passages as should fit, by an estimate; too many are halved."""
        room = self._remote.context_tokens - sampling.max_new_tokens
        number = prompt.fitted(_num_tokens, room) if isinstance(prompt, Grounded) else 0
        while True:
            try:
                return await ask(turns_of(prompt, number)), number
            except PromptTooLong:
                if not number:
                    raise
                number //= 2

    async def _chain(self, ask: Any, *, discard: Any = None) -> Any:
        """The answer of the first server that gives one."""
        reasons = []
        for number, (client, server) in enumerate(zip(self._at_hand(), self._remote.servers, strict=True)):
            breaker = self._breakers[number]
            if not breaker.allows():
                reasons.append(f"{server.base_url}: left alone after {self._remote.break_after} failures")
                continue
            try:
                given = await hedged(
                    lambda client=client, server=server: ask(client, server),  # type: ignore[misc]
                    after_s=self._remote.hedge_after_s,
                    discard=discard,
                )
            except self._faults() as error:
                if getattr(error, "status_code", None) in BAD:
                    breaker.succeeded()
                    said = f"{server.base_url} refuses the request: {_said(error)}"
                    too_long = getattr(error, "code", None) == TOO_LONG
                    raise (PromptTooLong(said) if too_long else RemoteRefused(said)) from error
                breaker.failed()
                reasons.append(f"{server.base_url}: {_said(error)}")
            else:
                breaker.succeeded()
                return given
        raise RemoteUnavailable(f"no server of {self._remote.servers[0].model} answered ({'; '.join(reasons)})")

    @staticmethod
    def _faults() -> tuple[type[Exception], ...]:
        """What a call may raise; a stream that breaks off raises httpx's own, and json's what is no JSON."""
        import httpx
        from openai import OpenAIError

        return OpenAIError, httpx.HTTPError, json.JSONDecodeError, NoAnswer

    def _at_hand(self) -> list[AsyncOpenAI]:
        """A client for each server, of the event loop that runs: connections cannot change loops."""
        import httpx
        from openai import AsyncOpenAI

        loop, remote = asyncio.get_running_loop(), self._remote
        if loop not in self._clients:
            self._clients[loop] = [
                AsyncOpenAI(
                    base_url=server.base_url,
                    api_key=self._keys[server.api_key_env],
                    timeout=remote.timeout_s,
                    max_retries=remote.max_retries,
                    http_client=httpx.AsyncClient(transport=self._transport) if self._transport else None,
                )
                for server in remote.servers
            ]
        return self._clients[loop]

    @asynccontextmanager
    async def _counted(self) -> AsyncGenerator[None]:
        self._num_running += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self._num_cancelled += 1
            raise
        finally:
            self._num_running -= 1

    def _asked(self, server: Server, prompt: Turns, sampling: Sampling) -> dict[str, Any]:
        """The request's fields; what stands at its default is left to the server, but for the temperature."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        lacks, most = self._lacking, max(sampling.num_logprobs, 0)
        more: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "schema": sampling.schema,
            "tools": list(sampling.tools) or None,
            "tool_choice": sampling.tool_choice,
            "parallel_tool_calls": sampling.parallel_tool_calls,
        }
        given = {name: value for name, value in more.items() if value is not None and name not in lacks}
        if schema := given.pop("schema", None):
            described = {"name": "answer", "schema": schema, "strict": True}
            given["response_format"] = {"type": "json_schema", "json_schema": described}
        if "num_logprobs" not in lacks:
            given |= {"logprobs": True} | ({"top_logprobs": most} if most else {})
        return {
            "model": server.model, "messages": messages, self._remote.limit_name: sampling.max_new_tokens, **given
        }  # fmt: skip


class _Pieces:
    """A stream from a server, whose first piece has come."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._iterator = stream, aiter(stream)
        self._first: Any = None
        self._texts: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._calls: list[dict[str, Any]] = []
        self._finish, self._usage = "", None

    async def begun(self) -> _Pieces:
        """The same, once something has come."""
        try:
            self._first = await anext(self._iterator, None)
            if self._first is None:
                raise NoAnswer("the stream is empty")
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        await self._stream.close()

    async def deltas(self) -> AsyncGenerator[Delta]:
        """The pieces; the last carries the whole."""
        chunk = self._first
        while chunk is not None:
            delta = self._take(chunk)
            if delta != Delta():
                yield delta
            chunk = await anext(self._iterator, None)
        if not self._finish:
            raise NoAnswer("the stream has no end")
        calls = calls_of(self._calls)
        yield Delta(whole=_whole("".join(self._texts), self._tokens, self._finish, self._usage, calls))

    def _take(self, chunk: Any) -> Delta:
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return Delta()
        choice = chunk.choices[0]
        self._finish = choice.finish_reason or self._finish
        text, tokens = choice.delta.content or "", _tokens(choice.logprobs)
        known = len(self._calls)
        for each in choice.delta.tool_calls or ():
            self._calls.append(self._placed(each.model_dump(exclude_none=True)))
        self._texts.append(text)
        self._tokens += tokens
        return Delta(text=text, tokens=tokens, tool_calls=tuple(self._calls[known:]))

    def _placed(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        """A piece with the place of its call; where a server gives none, an id begins a call."""
        places = {each["id"]: each["index"] for each in self._calls if each.get("id")}
        last, name = max(places.values(), default=-1), piece.get("id")
        return {"index": places.get(name, last + 1) if name else max(last, 0), **piece}


def _num_tokens(turns: Turns) -> int:
    """Rather too many than too few, by bytes."""
    texts = [turns] if isinstance(turns, str) else [json.dumps(dict(each), ensure_ascii=False) for each in turns]
    return sum(len(text.encode()) // BYTES_PER_TOKEN + TURN_TOKENS for text in texts)


def _generation(response: Any) -> Generation:
    if not getattr(response, "choices", None):  # a page of a proxy is text; the client checks nothing else either
        raise NoAnswer(f"no answer in {response!r}")
    choice = response.choices[0]
    text, tokens = choice.message.content or "", _tokens(choice.logprobs)
    made = (each.model_dump(exclude_none=True) for each in choice.message.tool_calls or ())
    calls = calls_of({**call, "index": place} for place, call in enumerate(made))
    return _whole(text, tokens, choice.finish_reason, response.usage, calls)


def _whole(
    text: str, tokens: Sequence[TokenLogprob], finish: str | None, usage: Any, calls: Sequence[Mapping[str, Any]]
) -> Generation:
    """An answer from its parts."""
    values = [each.logprob for each in tokens] or [UNSURE]
    details = getattr(usage, "prompt_tokens_details", None)
    return Generation(
        text=text,
        mean_logprob=sum(values) / len(values),
        min_logprob=min(values),
        num_prompt_tokens=usage.prompt_tokens if usage else 0,
        num_completion_tokens=usage.completion_tokens if usage else len(tokens),
        finish_reason="length" if finish == "length" else "tool_calls" if calls else "stop",
        num_cached_tokens=(details.cached_tokens or 0) if details else 0,
        tokens=tuple(tokens),
        tool_calls=tuple(calls),
    )


def _tokens(logprobs: Any) -> tuple[TokenLogprob, ...]:
    """A server's log-probabilities in our words."""
    given = logprobs.content if logprobs is not None else None
    return tuple(_token(each, [_token(other, ()) for other in each.top_logprobs or ()]) for each in given or ())


def _token(given: Any, top: Sequence[TokenLogprob]) -> TokenLogprob:
    raw = bytes(given.bytes) if given.bytes is not None else given.token.encode()
    return TokenLogprob(given.token, raw, max(given.logprob, UNSURE), tuple(top))


def _key(server: Server) -> str:
    if not server.api_key_env:
        return "-"
    key = os.environ.get(server.api_key_env, "")
    if not key:
        raise RemoteKeyMissing(f"{server.base_url} needs a key: set ${server.api_key_env} where the replicas run")
    return key


def _said(error: Exception) -> str:
    """A client's error in a few words."""
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, Mapping) else None
    return f"{status or type(error).__name__}: {' '.join(str(message or error).split())[:300]}"


def read_remote(folder: Path) -> Remote | None:
    """The description in a model version's folder; None where it holds weights."""
    path = folder / REMOTE_FILE
    return Remote.model_validate_json(path.read_bytes()) if path.is_file() else None
