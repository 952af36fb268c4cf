"""Completions as server-sent events, and back: what a stream's chunks spell is what its receipt commits to.

A stream is the pieces of the choices; a last chunk for each, the last of which carries ``citations``, the account
(``signalbox``) and the receipt (``receipt``, as in the header ``x-signalbox-receipt``); the usage, when asked for; an
``error`` object when something cut the answer short; and ``[DONE]``. An answer that is known before it is sent goes out
word by word, its log-probabilities with the last chunk.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.inference.sampling import TokenLogprob, calls_of
from app.ledger.receipts import HEADER, ReceiptUnreadable
from app.serving.responses import AnyResponse, Completed, Head, chat_logprobs, text_logprobs
from app.serving.schema import Account, ChatResponse, TextResponse, Usage, message_of

WORDS = re.compile(r"\S+\s*|\s+")
LINE_ENDS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}
DONE = "data: [DONE]\n\n"
OBJECTS = {"chat": "chat.completion.chunk", "text": "text_completion"}


@dataclass(frozen=True)
class Chunks:
    """The chunks of one stream."""

    head: Head
    model: str

    def begin(self, index: int) -> list[str]:
        """What comes before a choice's text: chat completions name the role."""
        return [self._event(index, {"delta": {"role": "assistant", "content": ""}})] if self.head.kind == "chat" else []

    def piece(
        self,
        index: int,
        text: str,
        tokens: Sequence[TokenLogprob] = (),
        *,
        start: int = 0,
        calls: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """A piece of a choice's text, or of its calls; ``start``: characters of the choice's tokens before it."""
        if self.head.kind == "chat":
            said: dict[str, Any] = {"content": text} if text or not calls else {}
            said |= {"tool_calls": list(calls)} if calls else {}
            return self._event(index, {"delta": said}, logprobs=chat_logprobs(tokens))
        return self._event(index, {"text": text}, logprobs=text_logprobs(tokens, start=start))

    def end(self, completed: Completed, *, include_usage: bool, logprobs: bool) -> Iterator[str]:
        """The last chunks.

        Args:
            logprobs: whether the choices' log-probabilities go out with them; False: they went with the pieces.
        """
        response = completed.response
        empty: dict[str, Any] = {"delta": {}} if self.head.kind == "chat" else {"text": ""}
        extras = response.model_dump(mode="json", include={"citations", "signalbox"})
        if HEADER in completed.headers:
            extras["receipt"] = completed.headers[HEADER]
        for choice in response.choices:
            held = choice.logprobs if logprobs else None
            last = choice is response.choices[-1]
            more = extras if last else {}
            yield self._event(choice.index, empty, finish=choice.finish_reason, logprobs=held, **more)
        if include_usage:
            yield event({**self._head(), "choices": [], "usage": response.usage.model_dump()})
        if response.error is not None:
            yield event({"error": response.error})
        yield DONE

    def _head(self) -> dict[str, Any]:
        kind = OBJECTS[self.head.kind]
        return {"id": self.head.id, "object": kind, "created": self.head.created, "model": self.model}

    def _event(
        self, index: int, said: Mapping[str, Any], *, finish: str | None = None, logprobs: Any = None, **more: Any
    ) -> str:
        choice = {"index": index, **said, "finish_reason": finish, "logprobs": logprobs}
        return event({**self._head(), "choices": [choice], **more})


def whole_stream(completed: Completed, head: Head, *, include_usage: bool) -> Iterator[str]:
    """A response that is known, as a stream."""
    chunks = Chunks(head, completed.response.model)
    for choice in completed.response.choices:
        yield from chunks.begin(choice.index)
        for word in WORDS.findall(choice.text):
            yield chunks.piece(choice.index, word)
        if choice.tool_calls:
            calls = [{**call, "index": place} for place, call in enumerate(choice.tool_calls)]
            yield chunks.piece(choice.index, "", calls=calls)
    yield from chunks.end(completed, include_usage=include_usage, logprobs=True)


def event(value: Mapping[str, Any]) -> str:
    """One server-sent event; signs that some readers take for the end of a line are escaped."""
    return f"data: {json.dumps(value, ensure_ascii=False).translate(LINE_ENDS)}\n\n"


def response_of_stream(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The response that a stream's chunks spell, as its receipt commits to it.

    Raises:
        ReceiptUnreadable: the stream is not whole.
    """
    try:
        end = next(chunk for chunk in chunks if "signalbox" in chunk)
        response = _rebuild(chunks, end)
    except (StopIteration, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ReceiptUnreadable("the stream is not whole: save it from the first event to [DONE]") from error
    return response.body()


def _rebuild(chunks: Sequence[Mapping[str, Any]], end: Mapping[str, Any]) -> AnyResponse:
    pieces: dict[int, list[Mapping[str, Any]]] = {}
    for choice in (choice for chunk in chunks for choice in chunk.get("choices", ())):
        pieces.setdefault(choice["index"], []).append(choice)
    chat = end["object"] == OBJECTS["chat"]
    choices = [(_chat_choice if chat else _text_choice)(index, mine) for index, mine in sorted(pieces.items())]
    account = Account(**end["signalbox"])
    made: type[AnyResponse] = ChatResponse if chat else TextResponse
    return made(
        **{name: end[name] for name in ("id", "created", "model", "citations")},
        choices=choices,
        usage=Usage.of(account),
        signalbox=account,
        error=next((chunk["error"] for chunk in chunks if "error" in chunk), None),
    )


def _chat_choice(index: int, pieces: Sequence[Mapping[str, Any]]) -> Any:
    content = "".join(piece["delta"].get("content", "") for piece in pieces)
    held = [piece["logprobs"]["content"] for piece in pieces if piece["logprobs"]]
    logprobs = {"content": [token for tokens in held for token in tokens], "refusal": None} if held else None
    ends = {"finish_reason": _finish(pieces), "logprobs": logprobs}
    calls = calls_of(call for piece in pieces for call in piece["delta"].get("tool_calls", ()))
    return {"index": index, "message": message_of(content, calls), **ends}


def _text_choice(index: int, pieces: Sequence[Mapping[str, Any]]) -> Any:
    held = [piece["logprobs"] for piece in pieces if piece["logprobs"]]
    logprobs = {name: [value for each in held for value in each[name]] for name in held[0]} if held else None
    text = "".join(piece["text"] for piece in pieces)
    return {"index": index, "text": text, "finish_reason": _finish(pieces), "logprobs": logprobs}


def _finish(pieces: Sequence[Mapping[str, Any]]) -> str:
    return next(str(piece["finish_reason"]) for piece in pieces if piece["finish_reason"])
