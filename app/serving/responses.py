"""From answers to a response: choices, log-probabilities, usage, account, headers, and the request log's columns."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.inference.sampling import TokenLogprob
from app.ledger.batches import Sealed
from app.ledger.receipts import HEADER
from app.serving.cascade import Answer, cost_large_only_usd, cost_usd
from app.serving.release import Release
from app.serving.requests import Asked
from app.serving.schema import Account, ChatResponse, Choice, TextChoice, TextResponse, Usage, message_of

AnyResponse = ChatResponse | TextResponse


@dataclass(frozen=True)
class Completed:
    """A response, the same as JSON, and the HTTP headers that tell how it came about."""

    response: AnyResponse
    body: Mapping[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Head:
    """What a response begins with, before its answer is known."""

    request_id: str
    kind: str
    created: int

    @classmethod
    def now(cls, request_id: str, kind: str) -> "Head":
        """The head of a response that begins now."""
        return cls(request_id, kind, int(time.time()))

    @property
    def id(self) -> str:
        """The response's id in OpenAI's form."""
        return f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{self.request_id}"


def respond(
    given: Sequence[Answer],
    asked: Asked,
    release: Release,
    head: Head,
    *,
    latency_s: float,
    asker: str = "",
    error: Any = None,
) -> AnyResponse:
    """The response of one or more answers to one request; the first one says route and model.

    Args:
        asker: digest of the request and its caller.
        error: OpenAI's error object, when something cut the answer short.
    """
    account = _account(given, asked, release, head, latency_s=latency_s).model_copy(update={"asked_by": asker})
    citations = list({(each.chunk_id, each.quote): each for one in given for each in one.citations}.values())
    fields: dict[str, Any] = {
        "id": head.id,
        "created": head.created,
        "model": given[0].model,
        "usage": Usage.of(account),
        "citations": citations,
        "signalbox": account,
        "error": error,
    }
    if head.kind == "chat":
        return ChatResponse(choices=[_chat_choice(place, each) for place, each in enumerate(given)], **fields)
    return TextResponse(choices=[_text_choice(place, each) for place, each in enumerate(given)], **fields)


def headers_of(account: Account) -> dict[str, str]:
    """Headers that say how an answer came about."""
    return {
        "x-signalbox-route": account.route,
        "x-signalbox-release": account.release,
        "x-signalbox-index": account.index,
        "x-signalbox-cost-usd": f"{account.cost_usd:.9f}",
    }


def attributes_of(response: AnyResponse) -> dict[str, Any]:
    """What a trace's span says of a response."""
    account = response.signalbox
    return {
        "gen_ai.response.id": response.id,
        "gen_ai.response.model": response.model,
        "gen_ai.response.finish_reasons": [choice.finish_reason for choice in response.choices],
        "gen_ai.usage.input_tokens": account.num_prompt_tokens,
        "gen_ai.usage.output_tokens": account.num_completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": account.num_cached_tokens,
        "signalbox.route": account.route,
        "signalbox.release": account.release,
        "signalbox.cost_usd": account.cost_usd,
    }


def receipt_header(sealed: Sealed | None) -> dict[str, str]:
    """The receipt's header; none when the log was too full to keep the request."""
    return {HEADER: sealed.header} if sealed else {}


def columns(question: str, given: Sequence[Answer], response: AnyResponse) -> dict[str, Any]:
    """The log's columns of an answered request; several choices are in ``response_json``, here stands the first."""
    account, first = response.signalbox, given[0]
    cited = [
        citation.model_dump(exclude={"heading_path", "page"}) | {"heading": " > ".join(citation.heading_path)}
        for citation in response.citations
    ]
    return {
        **account.model_dump(include={"route", "confidence", "retrieval_score", "cost_usd", "cost_large_only_usd"}),
        "latency_s": account.latency_s,
        "model": response.model,
        "question": question,
        "answer": response.choices[0].text,
        "citations": cited,
        "small_confidence": first.confidence_of("small"),
        "large_confidence": first.confidence_of("large"),
        "num_question_words": len(question.split()),
        "embedding": first.retrieval.embedding,
        "num_prompt_tokens": response.usage.prompt_tokens,
        "num_completion_tokens": response.usage.completion_tokens,
        "status": 200,
    }


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Log-probabilities as chat completions have them; None when there are none."""
    return {"content": [_token(each, top=True) for each in tokens], "refusal": None} if tokens else None


def text_logprobs(tokens: Sequence[TokenLogprob], *, start: int = 0) -> dict[str, Any] | None:
    """Log-probabilities as completions have them; ``start``: characters of the tokens before these."""
    offsets = [start + sum(len(each.text) for each in tokens[:place]) for place in range(len(tokens))]
    found = {
        "tokens": [each.text for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [{other.text: other.logprob for other in each.top} for each in tokens],
        "text_offset": offsets,
    }
    return found if tokens else None


def _token(token: TokenLogprob, *, top: bool) -> dict[str, Any]:
    shown = {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}
    return shown | ({"top_logprobs": [_token(each, top=False) for each in token.top]} if top else {})


def _account(given: Sequence[Answer], asked: Asked, release: Release, head: Head, *, latency_s: float) -> Account:
    tried, first = [each for one in given for each in one.tried], given[0]
    generations = [each.generation for each in tried]
    return Account(
        request_id=head.request_id,
        route=first.route,
        release=release.digest,
        release_name=release.ref,
        index=release.index,
        confidence=first.confidence,
        retrieval_score=first.retrieval_score,
        attempts=[each.to_attempt() for each in tried],
        num_prompt_tokens=sum(each.num_prompt_tokens for each in generations),
        num_completion_tokens=sum(each.num_completion_tokens for each in generations),
        num_cached_tokens=sum(each.num_cached_tokens for each in generations),
        cost_usd=cost_usd(release, tried),
        cost_large_only_usd=sum(cost_large_only_usd(release, each.tried) for each in given),
        latency_s=latency_s,
        routing=first.routing,
        dropped=list(asked.dropped),
    )


def _tokens(given: Answer) -> Sequence[TokenLogprob]:
    """Tokens of the answer that goes out; an extract has none."""
    return next((each.generation.tokens for each in given.tried if each.rung == given.route), ())


def _chat_choice(place: int, given: Answer) -> Choice:
    message = message_of(given.text, given.tool_calls)
    logprobs = chat_logprobs(_tokens(given))
    return Choice(index=place, message=message, finish_reason=given.finish_reason, logprobs=logprobs)


def _text_choice(place: int, given: Answer) -> TextChoice:
    logprobs = text_logprobs(_tokens(given))
    return TextChoice(index=place, text=given.text, finish_reason=given.finish_reason, logprobs=logprobs)
