"""Requests and responses: OpenAI's chat completions, with citations and an account of how the answer came about.

Fields that OpenAI's clients send and that do not change a greedy answer (``temperature``, ``top_p``, ``seed``,
``user``, penalties) are accepted. What would change the answer and is not there (tools, several choices, log
probabilities, a response format, stop strings) is refused by name.
"""

import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from app.retrieval.filters import Scope
from app.serving.errors import invalid

Route = str
"""The model that answered, such as ``small`` or ``large``; ``extractive`` for quotations."""
MAX_QUERY = 100_000
UNSUPPORTED = ("tools", "functions", "logprobs", "response_format", "stop", "logit_bias", "modalities", "audio")


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """The message's text; parts of another type are refused."""
        if isinstance(self.content, list):
            if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
                raise invalid(
                    "only text parts are understood: send messages without images, audio and files", param="messages"
                )
            return "\n".join(part["text"] for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A chat completion as it is asked for. The last user message is the question; earlier turns are logged only."""

    model_config = ConfigDict(extra="allow")

    model: str = "signalbox"
    messages: list[Message] = Field(min_length=1)
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions | None = None

    def question(self) -> str:
        """The text of the last user message.

        Raises:
            ApiError: there is none, or something is asked for that is not there.
        """
        refused = next((name for name in UNSUPPORTED if (self.model_extra or {}).get(name)), None)
        if refused or self.n != 1:
            raise invalid(f"{refused or 'n above 1'} is not supported: leave it out", param=refused or "n")
        texts = [whole(message.text()).strip() for message in self.messages if message.role == "user"]
        if not texts or not texts[-1]:
            raise invalid("there is no question: the last user message must hold some text", param="messages")
        return texts[-1]

    def limit(self, default: int) -> int:
        """Upper bound of the answer in tokens."""
        return min(self.max_completion_tokens or self.max_tokens or default, default)


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

    @classmethod
    def of(cls, passage: Passage, quote: str | None = None) -> "Citation":
        """The citation of a passage."""
        return cls(quote=quote, **passage.model_dump(include=set(cls.model_fields)))


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
    route: Route
    release: str
    release_name: str
    confidence: float | None
    retrieval_score: float
    attempts: list[Attempt]
    cost_usd: float
    cost_large_only_usd: float
    latency_s: float
    routing: Routing | None = None


class Usage(BaseModel):
    """Tokens of all models asked for this answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one choice."""

    index: int = 0
    message: AssistantMessage
    finish_reason: str
    logprobs: None = None


class ChatResponse(BaseModel):
    """A chat completion with its citations and its account."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    citations: list[Citation]
    signalbox: Account
