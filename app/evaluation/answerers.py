"""Who answers a suite's questions: a model, or anything that can be called. Lives inside the actors.

Guarantees: one answer per question, in order, with the time that it took.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from app.inference.models import ModelSource

Answer = Callable[[Sequence[str]], Sequence[str]]
"""Questions to texts; must be picklable, and may open what it needs on its first call."""


class Answerer:
    """Answers batches of questions.

    Args:
        source: a model to load, or a callable.
        num_threads: torch threads.
        max_new_tokens: longest answer of a model.
    """

    def __init__(self, source: ModelSource | Answer, *, num_threads: int, max_new_tokens: int) -> None:
        self._call = source if callable(source) else None
        self._max_new_tokens = max_new_tokens
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
        return [
            {
                "prediction": generation.text,
                "confidence": math.exp(generation.mean_logprob),
                "num_tokens": generation.num_completion_tokens,
                "finish_reason": generation.finish_reason,
            }
            for generation in self._engine.generate(questions, max_new_tokens=self._max_new_tokens)
        ]
