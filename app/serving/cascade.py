"""From a question to an answer: the cheapest model that is sure enough, else the documents' own sentences.

Each further model is asked only when the one before was not sure enough. The retriever and the first model run side by
side, unless models are given passages (``app.inference.passages``), the same to each, or the router forecasts from what
was found which model is worth asking. For a few requests chance puts
another model in (``app.routing.course``), so that what it would have answered can be known; what it answers goes out
under the same rule. The price counts every model that was asked.

Guarantees: an answer names the model that gave it, and the passages that models were given: such as the caller may see.
It cites a passage only when the answer's words stand in it, or when it quotes it. Not guaranteed: that a model's answer
without a citation is in the documents.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from app.inference.chat_format import Prompt
from app.inference.conversation import Conversation
from app.inference.passages import Given, Grounded
from app.inference.sampling import Delta, Generation, Sampling
from app.retrieval.filters import PUBLIC, Scope
from app.routing import sight
from app.routing.course import Circumstances, Course, set_course
from app.routing.features import Features, extract_features, find_support
from app.routing.router import Decision
from app.serving.embeddings import Embedded
from app.serving.release import EXTRACTIVE, ROUTED, Release
from app.serving.schema import Attempt, Citation, Passage, PassagesGiven, Route, Routing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


PLAIN = Circumstances()
WIDER = 4
"""Times as many passages are found when the first search is repeated."""


@dataclass(frozen=True)
class Retrieval:
    """Passages found for a question, best first, and the question's embedding (384 floats, unit norm)."""

    passages: Sequence[Passage]
    embedding: Sequence[float]


@dataclass(frozen=True)
class Quote:
    """Words of a passage."""

    passage: Passage
    text: str


@dataclass(frozen=True)
class Extract:
    """Sentences quoted from the passages; ``confidence`` (0 to 1) says how well they fit the question."""

    text: str
    confidence: float
    quotes: Sequence[Quote]


class Backends(Protocol):
    """What the cascade needs from the rest of the application.

    ``lacks`` names the fields of a ``Sampling`` that a model's engine has not. The last piece of a ``stream`` carries
    the whole; closing the iterator ends the generation in the engine.
    """

    async def retrieve(self, index: str, question: str, top_k: int, scope: Scope) -> Retrieval: ...
    async def embed(self, index: str, texts: Sequence[str]) -> Embedded: ...
    async def lacks(self, rung: str, model: str, sampling: Sampling) -> tuple[str, ...]: ...
    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation: ...
    def stream(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]: ...
    async def read(self, question: str, passages: Sequence[Passage]) -> Extract: ...
    async def preload(self, release: Release) -> None: ...


@dataclass(frozen=True)
class Tried:
    """One model's answer with what the router made of it."""

    rung: str
    model: str
    generation: Generation
    features: Features
    decision: Decision
    given: Given | None = None
    """The passages that it was given; None where models are given none."""
    sure: bool = False
    """Whether the judge trusts the answer, whatever a larger model is expected to say."""

    @property
    def num_tokens(self) -> int:
        """Prompt and completion."""
        return self.generation.num_prompt_tokens + self.generation.num_completion_tokens

    def to_attempt(self) -> Attempt:
        """For the response."""
        return Attempt(
            rung=self.rung,
            model=self.model,
            text=self.generation.text,
            confidence=self.decision.confidence,
            threshold=self.decision.threshold,
            accepted=self.decision.accepted,
            supported=bool(self.features.supported),
            mean_logprob=self.generation.mean_logprob,
            num_prompt_tokens=self.generation.num_prompt_tokens,
            num_completion_tokens=self.generation.num_completion_tokens,
            passages=PassagesGiven.of(self.given),
        )


@dataclass(frozen=True)
class Answer:
    """What goes out, and everything the account and the log say about it."""

    text: str
    route: Route
    model: str
    finish_reason: str
    citations: list[Citation]
    retrieval: Retrieval
    tried: list[Tried] = field(default_factory=list)
    tool_calls: Sequence[Mapping[str, Any]] = ()
    """What the model calls before it goes on."""
    extract_confidence: float | None = None
    routing: Routing | None = None
    """None where a model was asked for by name."""

    @property
    def confidence(self) -> float | None:
        """The highest P(correct) among the models asked; the extract's own figure when none was asked."""
        known = [each.decision.confidence for each in self.tried if each.decision.confidence is not None]
        return max(known, default=self.extract_confidence)

    @property
    def retrieval_score(self) -> float:
        """Similarity of the nearest passage; 0 when nothing was found."""
        return max((passage.similarity for passage in self.retrieval.passages), default=0.0)

    def confidence_of(self, rung: str) -> float | None:
        """P(correct) of one model's answer; None when it was not asked."""
        return next((each.decision.confidence for each in self.tried if each.rung == rung), None)

    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens of all models asked."""
        generations = [each.generation for each in self.tried]
        prompt = sum(generation.num_prompt_tokens for generation in generations)
        return prompt, sum(generation.num_completion_tokens for generation in generations)


async def answer(
    conversation: Conversation,
    *,
    release: Release,
    requested: str,
    rungs: Sequence[str],
    backends: Backends,
    top_k: int,
    sampling: Sampling,
    scope: Scope = PUBLIC,
    circumstances: Circumstances = PLAIN,
    judged: bool = False,
    trusted: bool = False,
) -> Answer:
    """Answer a conversation's question under one release.

    Args:
        requested: ``signalbox`` asks for the router; any other name takes the answer as it comes.
        rungs: models to ask, cheapest first.
        sampling: how the answer is drawn.
        scope: what the caller may see of the documents.
        circumstances: what else decides who may answer; by default nothing, and nothing is left to chance.
        judged: whether an answer by name too goes out only when the judge trusts it; else the documents are quoted.
        trusted: there is no judge: whatever a model answers, or calls, goes out.
    """
    question = conversation.searched
    searching = asyncio.ensure_future(backends.retrieve(release.index, question, top_k, scope))
    asking = _Asking(conversation, question, release, backends, sampling, searching, top_k, scope, trusted)
    try:
        if requested == ROUTED:
            return await _routed(asking, rungs, circumstances)
        tried = [await asking.ask(rung) for rung in rungs[:1]]
        found = await searching
        stands = bool(tried) and (tried[-1].sure or not judged)
        return _from_model(tried, found) if stands else await _from_documents(question, tried, found, backends)
    finally:
        searching.cancel()


@dataclass(frozen=True)
class _Asking:
    """One question under way; what is searched is what the router and the reader take for the question."""

    conversation: Conversation
    question: str
    release: Release
    backends: Backends
    sampling: Sampling
    searching: "asyncio.Future[Retrieval]"
    top_k: int
    scope: Scope
    trusted: bool

    def wider(self) -> "_Asking":
        """The same with another search, for more passages."""
        asked = (self.release.index, self.question, WIDER * self.top_k, self.scope)
        return replace(self, searching=asyncio.ensure_future(self.backends.retrieve(*asked)))

    async def ask(self, rung: str, seen: "Floats | None" = None) -> Tried:
        """A model's answer, judged.

        Args:
            seen: what was seen before, where the router forecasts.
        """
        found = (await self.searching).passages if self.release.context_passages else ()
        model, prompt = self.release.models[rung], self.release.prompt_for(self.conversation, found)
        generation = await self.backends.generate(rung, model.digest, prompt, self.sampling)
        tried = _judge(self.question, rung, generation, await self.searching, self.release, seen)
        if isinstance(prompt, Grounded):
            tried = replace(tried, given=prompt.given(generation.num_passages))
        stands = Decision(None, None, accepted=True)
        said = generation.text.strip() or generation.tool_calls
        return replace(tried, decision=stands, sure=True) if self.trusted and said else tried

    async def look(self) -> "Floats":
        """What is seen before a model is asked; it waits for the search."""
        found = await self.searching
        return sight.before(self.question, found.embedding, found.passages)


async def _routed(asking: _Asking, rungs: Sequence[str], circumstances: Circumstances) -> Answer:
    router = asking.release.router
    foresight = router.foresight if router and not circumstances.void else None
    seen = await asking.look() if foresight else None
    if foresight and seen is not None and foresight.is_weak(seen):
        asking = asking.wider()
        seen = await asking.look()
    qualities = foresight.qualities(seen) if foresight and seen is not None else None
    weak = bool(foresight and seen is not None and foresight.is_weak(seen))
    course = set_course(router, rungs, circumstances, qualities=qualities, weak=weak)
    tried: list[Tried] = []
    for rung in course.asked:
        tried.append(await asking.ask(rung, seen))
        last = rung == course.asked[-1]
        if tried[-1].sure and not last and router and not router.suffices(tried[-1].decision.gap):
            tried[-1] = replace(tried[-1], decision=replace(tried[-1].decision, accepted=False))
        if tried[-1].decision.accepted:
            break
    choice = tried[-1].rung if tried else ""
    used = course.drawn or choice
    if used and all(each.rung != used for each in tried):
        tried.append(await asking.ask(used, seen))
    goes_out = next((each for each in tried if each.rung == used and each.sure), None)
    found = await asking.searching
    if goes_out:
        given = _from_model(tried, found, goes_out)
    else:
        given = await _from_documents(asking.question, tried, found, asking.backends)
    return replace(given, routing=_account(course, tried, choice, used, circumstances, asking.release))


def _account(
    course: Course, tried: Sequence[Tried], choice: str, used: str, about: Circumstances, release: Release
) -> Routing:
    promised = release.router.guarantee if release.router else None
    stands = not release.models or list(release.models)[-1] in course.allowed or not course.allowed
    gaps = {each.rung: each.decision.gap for each in tried if each.decision.gap is not None}
    return Routing(
        choice=choice,
        used=used,
        explored=bool(course.drawn),
        propensities=course.propensities(choice),
        qualities=dict(course.qualities),
        gaps=gaps,
        left_out=dict(course.left_out),
        guarantee="none" if not promised else "void" if about.void else "holds" if stands else "none",
        void_because=about.void,
    )


def cost_usd(release: Release, tried: Sequence[Tried]) -> float:
    """Price of all models that were asked."""
    return sum(each.num_tokens * release.price(each.rung) for each in tried) / 1000


def cost_large_only_usd(release: Release, tried: Sequence[Tried]) -> float:
    """What the large model alone would have cost: by its own tokens, else by those of the last model asked."""
    if not tried:
        return 0.0
    by_large = next((each for each in tried if each.rung == "large"), tried[-1])
    return by_large.num_tokens * release.price("large") / 1000


def _judge(
    question: str, rung: str, generation: Generation, retrieval: Retrieval, release: Release, seen: "Floats | None"
) -> Tried:
    features, router = extract_features(question, generation, retrieval.passages), release.router
    gap = None
    if seen is not None and router and router.foresight and rung in router.foresight.seen_after:
        gap = router.foresight.gap_after(rung, sight.after(seen, question, generation, features))
    decision = router.decide(rung, features, gap=gap) if router else Decision(None, None, accepted=False)
    if not generation.text.strip():
        decision = replace(decision, accepted=False)
    return Tried(rung, release.models[rung].ref, generation, features, decision, sure=decision.accepted)


def _from_model(tried: list[Tried], retrieval: Retrieval, chosen: Tried | None = None) -> Answer:
    """The answer of a model; of the last one asked by default."""
    last = chosen or tried[-1]
    support = find_support(last.generation.text, retrieval.passages)
    return Answer(
        text=last.generation.text,
        route=last.rung,
        model=last.model,
        finish_reason=last.generation.finish_reason,
        citations=[] if support is None else [Citation.of(retrieval.passages[support])],
        retrieval=retrieval,
        tried=tried,
        tool_calls=last.generation.tool_calls,
    )


async def _from_documents(question: str, tried: list[Tried], retrieval: Retrieval, backends: Backends) -> Answer:
    extract = await backends.read(question, retrieval.passages)
    return Answer(
        text=extract.text,
        route="extractive",
        model=EXTRACTIVE,
        finish_reason="stop",
        citations=[Citation.of(quote.passage, quote.text) for quote in extract.quotes],
        retrieval=retrieval,
        tried=tried,
        extract_confidence=extract.confidence,
    )
