"""Who answers a suite's questions: a model, or anything that can be called. Lives inside the actors.

Guarantees: one answer per question, in order, with the time that it took.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.inference.chat_format import Prompt
from app.inference.models import ModelSource
from app.inference.passages import Grounded, Passage, grounded, identity_of

Answer = Callable[[Sequence[str]], Sequence[str]]
"""Questions to texts; must be picklable, and may open what it needs on its first call."""

Find = Callable[[Sequence[str]], Sequence[Sequence[Passage]]]
"""Questions to passages, best first; picklable like an answerer."""


@dataclass(frozen=True)
class Grounding:
    """Passages that a model is given with every question, as serving gives them.

    Args:
        index: digest of the index that they are found in.
        number: how many at most.
        find: looks for them.
    """

    index: str
    number: int
    find: Find

    @property
    def identity(self) -> dict[str, Any]:
        """What an evaluation states of it: models were judged with just this."""
        return identity_of(self.index, self.number)


class Answerer:
    """Answers batches of questions.

    Args:
        source: a model to load, or a callable.
        num_threads: torch threads.
        max_new_tokens: longest answer of a model.
        grounding: passages that a model is given; None: the question alone.
    """

    def __init__(
        self, source: ModelSource | Answer, *, num_threads: int, max_new_tokens: int, grounding: Grounding | None = None
    ) -> None:
        self._call = source if callable(source) else None
        self._max_new_tokens, self._grounding = max_new_tokens, grounding
        if isinstance(source, ModelSource):
            self._engine = source.load(num_threads=num_threads)
        self._answer(["Ready?"])  # what is opened or compiled on first use does not count as an answer's time

    def answer_rows(self, question_ids: Sequence[str], questions: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of `schema.ANSWERS`."""
        started_s = time.perf_counter()
        answers = self._answer(questions)
        seconds = (time.perf_counter() - started_s) / len(questions)
        named = zip(question_ids, answers, strict=True)
        return [{"question_id": question_id, "seconds": seconds, **answer} for question_id, answer in named]

    def _answer(self, questions: Sequence[str]) -> list[dict[str, Any]]:
        if self._call is not None:
            texts = self._call(questions)
            return [
                {"prediction": text, "confidence": None, "num_tokens": len(text.split()), "finish_reason": "stop"}
                for text in texts
            ]
        prompts = self._prompts(questions)
        return [
            {
                "prediction": generation.text,
                "confidence": math.exp(generation.mean_logprob),
                "num_tokens": generation.num_completion_tokens,
                "finish_reason": generation.finish_reason,
                "num_passages": generation.num_passages,
                "num_dropped": len(prompt.passages) - generation.num_passages if isinstance(prompt, Grounded) else 0,
            }
            for prompt, generation in zip(
                prompts, self._engine.generate(prompts, max_new_tokens=self._max_new_tokens), strict=True
            )
        ]

    def _prompts(self, questions: Sequence[str]) -> Sequence[Prompt]:
        """What the model is asked; the passages are those that serving would give it."""
        if (given := self._grounding) is None:
            return questions
        found = given.find(questions)
        return [grounded(question, each, given.number) for question, each in zip(questions, found, strict=True)]
