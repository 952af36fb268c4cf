"""From a question to an answer: the cheapest model that is sure enough, else the documents' own sentences.

The retriever and the first model run side by side; each further model is asked only when the one before was not sure
enough. The price counts every model that was asked.

Guarantees: an answer names the model that gave it, and cites a passage only when the answer's words stand in it, or
when it quotes it. Not guaranteed: that a model's answer without a citation is in the documents.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.inference.sampling import Delta, Generation, Sampling
from app.retrieval.filters import PUBLIC, Scope
from app.routing.features import Features, extract_features, find_support
from app.routing.router import Decision
from app.serving.embeddings import Embedded
from app.serving.release import EXTRACTIVE, ROUTED, Prompt, Release
from app.serving.schema import Attempt, Citation, Passage, Route


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
    def stream(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Delta]: ...
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
    extract_confidence: float | None = None

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
    question: str,
    *,
    release: Release,
    requested: str,
    rungs: Sequence[str],
    backends: Backends,
    top_k: int,
    sampling: Sampling,
    scope: Scope = PUBLIC,
) -> Answer:
    """Answer a question under one release.

    Args:
        requested: ``signalbox`` asks for the router; any other name takes the answer as it comes.
        rungs: models to ask, cheapest first.
        sampling: how the answer is drawn.
        scope: what the caller may see of the documents.
    """
    routed = requested == ROUTED
    searching = asyncio.ensure_future(backends.retrieve(release.index, question, top_k, scope))
    tried: list[Tried] = []
    try:
        for rung in rungs:
            model = release.models[rung]
            generation = await backends.generate(rung, model.digest, release.prompt_for(question), sampling)
            tried.append(_judge(question, rung, generation, await searching, release))
            if not routed or tried[-1].decision.accepted:
                return _from_model(tried, await searching)
        return await _from_documents(question, tried, await searching, backends)
    finally:
        searching.cancel()


def cost_usd(release: Release, tried: Sequence[Tried]) -> float:
    """Price of all models that were asked."""
    return sum(each.num_tokens * release.price(each.rung) for each in tried) / 1000


def cost_large_only_usd(release: Release, tried: Sequence[Tried]) -> float:
    """What the large model alone would have cost: by its own tokens, else by those of the last model asked."""
    if not tried:
        return 0.0
    by_large = next((each for each in tried if each.rung == "large"), tried[-1])
    return by_large.num_tokens * release.price("large") / 1000


def _judge(question: str, rung: str, generation: Generation, retrieval: Retrieval, release: Release) -> Tried:
    features = extract_features(question, generation, retrieval.passages)
    decision = release.router.decide(rung, features) if release.router else Decision(None, None, accepted=False)
    if not generation.text.strip():
        decision = Decision(decision.confidence, decision.threshold, accepted=False)
    return Tried(rung, release.models[rung].ref, generation, features, decision)


def _from_model(tried: list[Tried], retrieval: Retrieval) -> Answer:
    last = tried[-1]
    support = find_support(last.generation.text, retrieval.passages)
    return Answer(
        text=last.generation.text,
        route="small" if last.rung == "small" else "large",
        model=last.model,
        finish_reason=last.generation.finish_reason,
        citations=[] if support is None else [Citation.of(retrieval.passages[support])],
        retrieval=retrieval,
        tried=tried,
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
