"""What the HTTP interface says: OpenAI's completions with citations and an account of how the answer came about.

What is asked stands in ``app.serving.requests``; searches are here, both sides.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, computed_field

from app.inference.injection import warning_of
from app.inference.passages import Given
from app.retrieval.filters import Scope

Route = str
"""The model that answered, such as ``small`` or ``large``; ``extractive`` for quotations."""
MAX_QUERY = 100_000


def whole(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can spell and no encoder can read."""
    return text.encode("utf-8", "replace").decode()


Text = Annotated[str, AfterValidator(whole)]


class SearchFilter(BaseModel):
    """Limits of a search, applied before ranking; all of them hold together."""

    model_config = ConfigDict(extra="forbid")

    documents: list[Text] = Field(default=[], max_length=1000)
    """Ids or sources of documents; at least one of them."""

    section: Text = Field(default="", max_length=1000)
    """A heading; passages under it, at any depth."""

    dated_from: datetime.date | None = None
    """Documents of that day or later."""

    dated_to: datetime.date | None = None
    """Documents of that day or earlier."""

    def scope(self, labels: frozenset[str]) -> Scope:
        """The limits, for a caller who holds these access labels."""
        return Scope(labels, frozenset(self.documents), self.section, self.dated_from, self.dated_to)


class SearchRequest(BaseModel):
    """A search over the index of the release that serves."""

    model_config = ConfigDict(extra="forbid")

    query: Text = Field(min_length=1, max_length=MAX_QUERY)
    top_k: PositiveInt = Field(default=4, le=100)
    filter: SearchFilter = Field(default_factory=lambda: SearchFilter())


class PassageScores(BaseModel):
    """What each part of the search made of a passage: cosine, BM25, both fused (0 to 1) with what is added for a title
    that the question names, how far it names it (0 to 1), and the re-ranker's if any."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    dense: float
    lexical: float
    fused: float
    title: float = 0.0
    reranked: float | None = None


class Passage(BaseModel):
    """A passage that was found. ``score`` orders the passages of one question; ``similarity`` is its cosine."""

    model_config = ConfigDict(frozen=True)

    chunk_id: str
    document_id: str
    source: str
    title: str = ""
    heading_path: tuple[str, ...] = ()
    text: str
    score: float
    similarity: float
    scores: PassageScores
    page: int | None = None
    page_end: int | None = None
    date: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def warning(self) -> str | None:
        """Why the text should not be put before a model as it is; None when it reads like any other."""
        return warning_of(self.text)


class Citation(BaseModel):
    """Where an answer comes from: document and heading."""

    document_id: str
    chunk_id: str
    source: str
    title: str
    heading_path: tuple[str, ...]
    page: int | None = None
    quote: str | None = None
    """The words quoted; None where a model answered in its own."""

    warning: str | None = None
    """Of the passage: it reads like an instruction to a model."""

    @classmethod
    def of(cls, passage: Passage, quote: str | None = None) -> "Citation":
        """The citation of a passage."""
        return cls(quote=quote, **passage.model_dump(include=set(cls.model_fields)))


class PassagesGiven(BaseModel):
    """The passages that a model was given with the question, best first.

    Chunk ids are digests of their texts, and the index holds them: with the request, whoever has that index can make
    the model's prompt again and compare ``prompt``, the digest of the turns (``app.inference.passages``).
    """

    chunk_ids: list[str]
    num_dropped: int
    """Passages that the model's context had no room for."""

    prompt: str

    @classmethod
    def of(cls, given: Given | None) -> "PassagesGiven | None":
        """The same for a response; None where a model was given none."""
        return None if given is None else cls(**vars(given) | {"chunk_ids": list(given.chunk_ids)})


class Attempt(BaseModel):
    """One model's answer on the way through the cascade, and what the router made of it."""

    rung: str
    model: str
    text: str
    confidence: float | None
    threshold: float | None
    accepted: bool
    supported: bool
    mean_logprob: float
    num_prompt_tokens: int
    num_completion_tokens: int
    passages: PassagesGiven | None = None


class Routing(BaseModel):
    """How the router chose. ``choice`` is its own, ``used`` what chance put in its place for a few requests.

    ``propensities`` says with which probability each model would have been used for this very request: what an audit
    needs. ``gaps`` tells how much better the last model was expected to be, ``left_out`` why models were not asked.
    """

    choice: str
    used: str
    explored: bool
    propensities: dict[str, float]
    qualities: dict[str, float] = {}
    gaps: dict[str, float] = {}
    left_out: dict[str, str] = {}
    guarantee: Literal["none", "holds", "void"]
    void_because: str = ""


class Account(BaseModel):
    """How an answer came about and what it cost; ``confidence`` is the router's probability that it is right."""

    request_id: str
    asked_by: str = ""
    """Digest of the request's id and its caller: whoever rates the answer must come to the same."""

    route: Route
    release: str
    release_name: str
    index: str = ""
    """Digest of the index that was searched."""

    confidence: float | None
    retrieval_score: float
    attempts: list[Attempt]
    num_prompt_tokens: int = 0
    """Of all models asked for this answer; none for an answer from the cache."""

    num_completion_tokens: int = 0
    num_cached_tokens: int = 0
    """Tokens of the prompts that the engines had worked through before."""

    cost_usd: float
    cost_large_only_usd: float
    latency_s: float
    routing: Routing | None = None
    cached_from: str | None = None
    """The request whose answer this is, given again from the cache."""

    dropped: list[str] = []
    """Parameters that were left out, since nobody here has them."""


class PromptTokensDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens of all models asked for this answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()

    @classmethod
    def of(cls, account: Account) -> "Usage":
        """The usage of an account."""
        prompt, completion = account.num_prompt_tokens, account.num_completion_tokens
        details = PromptTokensDetails(cached_tokens=account.num_cached_tokens)
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=details,
        )


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class CallingMessage(BaseModel):
    """An answer that calls tools, with what was said beside that."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[dict[str, Any]]


def message_of(text: str, calls: Sequence[Mapping[str, Any]] = ()) -> AssistantMessage | CallingMessage:
    """The message of an answer; one that calls tools says nothing, or something beside."""
    if not calls:
        return AssistantMessage(content=text)
    return CallingMessage(content=text or None, tool_calls=list(map(dict, calls)))


class Choice(BaseModel):
    """One choice of a chat completion."""

    index: int = 0
    message: AssistantMessage | CallingMessage
    finish_reason: str
    logprobs: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The answer's text; empty where it calls tools alone."""
        return self.message.content or ""

    @property
    def tool_calls(self) -> Sequence[Mapping[str, Any]]:
        """What it calls."""
        return getattr(self.message, "tool_calls", ())


class TextChoice(BaseModel):
    """One choice of a completion."""

    index: int = 0
    text: str
    finish_reason: str
    logprobs: dict[str, Any] | None = None
    tool_calls: ClassVar[tuple[Mapping[str, Any], ...]] = ()


class Response(BaseModel):
    """What both kinds of completions have in common: usage, citations, account; the error that cut a stream short."""

    id: str
    created: int
    model: str
    usage: Usage
    citations: list[Citation]
    signalbox: Account
    error: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """As JSON: what is sent, and what the receipt commits to."""
        return self.model_dump(mode="json", exclude={"error"} if self.error is None else None)


class ChatResponse(Response):
    """A chat completion with its citations and its account."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[Choice]


class TextResponse(Response):
    """A completion with its citations and its account."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]
