"""What rows share with the questions of a suite: the same question and answer, or a run of words.

Guarantees: pure; letters and digits are compared, without letter case. A gate's check and the quality report of a
dataset both judge by this. Not guaranteed: other wordings of a question; vectors find some of those.
Source: Brown et al., Language models are few-shot learners (2020), appendix C (13-grams).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from app.core.text import ngrams, words

NGRAM_WORDS = 13

Pair = tuple[tuple[str, ...], tuple[str, ...]]
Run = tuple[str, ...]
Row = Mapping[str, Any]


def pairs_of(row: Row, *, question: str = "question") -> set[Pair]:
    """Question and answer of a row, for every accepted answer."""
    asked = tuple(words(str(row[question])))
    return {(asked, tuple(words(answer))) for answer in answers_of(row)}


def runs_of(row: Row, *, n: int = NGRAM_WORDS, question: str = "question") -> set[Run]:
    """Every run of ``n`` words of a row's question."""
    return ngrams(words(str(row[question])), n)


def answers_of(row: Row) -> list[str]:
    """A row's accepted answers, each once: the list `answers` and `answer`."""
    answers = [*(row.get("answers") or []), *([row["answer"]] if row.get("answer") else [])]
    return list(dict.fromkeys(str(answer) for answer in answers))


class Overlap:
    """The questions of some rows, to be looked for in others."""

    def __init__(self, rows: Iterable[Row], *, n: int = NGRAM_WORDS, question: str = "question") -> None:
        self._n, self._question = n, question
        self._pairs: set[Pair] = set()
        self._runs: set[Run] = set()
        for row in rows:
            self._pairs |= pairs_of(row, question=question)
            self._runs |= runs_of(row, n=n, question=question)

    def shared_with(self, row: Row) -> str:
        """What a row shares: ``question and answer``, ``run of words``, or nothing."""
        if not self._pairs.isdisjoint(pairs_of(row, question=self._question)):
            return "question and answer"
        return self.shared_with_text(str(row[self._question]))

    def shared_with_text(self, text: str) -> str:
        """``run of words`` when running text holds one, else nothing."""
        return "" if self._runs.isdisjoint(ngrams(words(text), self._n)) else "run of words"
