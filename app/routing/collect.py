"""Outcomes: ask every model of a ladder the same questions, and judge what each says.

An answer's quality is what a person said of it, else whether it is one of the accepted answers, else, where none are
known, whether it says what the largest model says: then the largest counts as right, and what is estimated is the
quality lost against it.

Guarantees: the same questions, models and index give the same rows, in the order of hashed ids. Not guaranteed: that
the largest model is right where it is the measure.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.core.batches import batched
from app.core.digests import digest_json
from app.inference.chat import Turns
from app.inference.chat_format import Prompt
from app.inference.conversation import Conversation
from app.inference.passages import turns_of
from app.inference.sampling import Generation, Sampling
from app.routing import sight
from app.routing.features import Features, extract_features, same_answer
from app.routing.features import Found as Seen
from app.routing.limits import ModelCard
from app.routing.sample import Row, Sample
from app.routing.settings import RoutingSettings


@dataclass(frozen=True)
class Question:
    """One question with what is known of its answers. ``scores`` are people's, 0 to 1, by model of the ladder."""

    row_id: str
    text: str
    source: str
    answers: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    within: Conversation | None = None
    """The conversation that the question ends; None: it stands alone."""

    @property
    def conversation(self) -> Conversation:
        """What the models are asked."""
        return self.within or Conversation.of(self.text)


class Found(Protocol):
    """What a search found for a question."""

    @property
    def passages(self) -> Sequence[Seen]: ...
    @property
    def embedding(self) -> Sequence[float]: ...


class Engine(Protocol):
    """What generates answers; ``max_context_tokens`` where it knows."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Sequence[Generation]: ...


Search = Callable[[Sequence[str]], Sequence[Found]]


def collect(
    questions: Sequence[Question],
    engines: Mapping[str, Callable[[], Engine]],
    *,
    search: Search,
    prompt_for: Callable[[Conversation, Sequence[Seen]], Prompt],
    settings: RoutingSettings,
    prices: Mapping[str, float],
) -> tuple[Sample, dict[str, ModelCard]]:
    """The outcomes of questions, and a card for each model.

    Args:
        engines: by rung, cheapest first; each is built when its turn comes.
        prices: US dollars for 1,000 tokens, by rung.
    """
    ordered = sorted(questions, key=lambda each: digest_json(each.row_id))
    found: list[Found] = []
    for batch in batched([each.conversation.searched for each in ordered], settings.batch_size):
        found += search(batch)
    prompts = [prompt_for(each.conversation, seen.passages) for each, seen in zip(ordered, found, strict=True)]
    given: dict[str, list[Generation]] = {}
    cards: dict[str, ModelCard] = {}
    for rung, build in engines.items():
        given[rung], cards[rung] = _ask(build(), prompts, settings, prices.get(rung, 0.0))
    rows = [
        _row(question, seen, {rung: each[place] for rung, each in given.items()})
        for place, (question, seen) in enumerate(zip(ordered, found, strict=True))
    ]
    embedded = len(found[0].embedding) if found else 0
    return Sample(tuple(engines), tuple(rows), embedded), cards


def qualities(question: Question, texts: Mapping[str, str]) -> list[float]:
    """How good each model's answer is, cheapest first."""
    measure = question.answers or (list(texts.values())[-1],)
    judged = {rung: float(same_answer(text, measure)) for rung, text in texts.items()}
    return [float(question.scores.get(rung, each)) for rung, each in judged.items()]


def _ask(
    engine: Engine, prompts: Sequence[Prompt], settings: RoutingSettings, price: float
) -> tuple[list[Generation], ModelCard]:
    given: list[Generation] = []
    began_s = time.perf_counter()
    for batch in batched(list(prompts), settings.batch_size):
        given += engine.generate(batch, Sampling(max_new_tokens=settings.max_new_tokens))
    seconds = (time.perf_counter() - began_s) / max(1, len(given))
    num_chars = sum(
        _num_chars(turns_of(prompt, each.num_passages)) for prompt, each in zip(prompts, given, strict=True)
    )
    num_tokens = sum(each.num_prompt_tokens for each in given)
    card = ModelCard(
        usd_per_1k_tokens=price,
        context_tokens=getattr(engine, "max_context_tokens", None),
        seconds_per_answer=round(seconds, 4),
        chars_per_token=num_chars / num_tokens if num_tokens else ModelCard().chars_per_token,
    )
    return given, card


def _num_chars(turns: Turns) -> int:
    return len(turns) if isinstance(turns, str) else sum(len(each["content"]) for each in turns)


def _row(question: Question, found: Found, given: Mapping[str, Generation]) -> Row:
    text = question.conversation.searched
    seen = sight.before(text, found.embedding, found.passages)
    judged = [extract_features(text, each, found.passages) for each in given.values()]
    pairs = zip(given.values(), judged, strict=True)
    return Row(
        row_id=question.row_id,
        source=question.source,
        before=seen.tolist(),
        after=[_after(seen, text, each, features) for each, features in pairs],
        judged=judged,
        quality=qualities(question, {rung: each.text for rung, each in given.items()}),
        tokens=[float(each.num_prompt_tokens + each.num_completion_tokens) for each in given.values()],
    )


def _after(seen: "sight.Floats", question: str, answer: Generation, features: Features) -> list[float]:
    numbers: list[float] = sight.after(seen, question, answer, features).tolist()
    return numbers
