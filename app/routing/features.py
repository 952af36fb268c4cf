"""What the router looks at: pure functions from a question, an answer and the passages found to numbers.

Guarantees: no model and no file is touched; the same input gives the same vector. Not guaranteed: that a supported
answer is right: its words stand in a passage, perhaps about something else.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Protocol

from app.inference.passages import Passage as Quotable

TOKENS = re.compile(r"\d+(?:[.,:/-]\d+)*%?|[^\W_]+")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
ARTICLES = frozenset({"a", "an", "the"})


class Answer(Protocol):
    """What a text engine says about an answer that it gave."""

    @property
    def text(self) -> str: ...
    @property
    def mean_logprob(self) -> float: ...
    @property
    def min_logprob(self) -> float: ...


class Passage(Protocol):
    """A passage that the search found, best first."""

    @property
    def text(self) -> str: ...
    @property
    def similarity(self) -> float: ...


class Found(Passage, Quotable, Protocol):
    """The same where a model may be given it."""


@dataclass(frozen=True)
class Features:
    """One answer as the router sees it."""

    mean_logprob: float
    """Mean log probability of the answer's tokens."""

    min_logprob: float
    """Log probability of the token that the model was least sure of."""

    retrieval_score: float
    """Similarity of the best passage to the question; 0 when none was found."""

    supported: float
    """1 when the answer's words occur in a row in a passage found, else 0."""

    num_question_words: float
    """Words of the question."""

    def vector(self) -> tuple[float, ...]:
        """The numbers in the order of ``FEATURE_NAMES``."""
        return astuple(self)


FEATURE_NAMES = tuple(field.name for field in fields(Features))


def normalise(text: str) -> list[str]:
    """Lower-case words and numbers without articles and punctuation; ``1,250`` and ``1250`` are the same number."""
    plain = THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return [token for token in TOKENS.findall(plain) if token not in ARTICLES]


def same_answer(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a prediction is one of the accepted answers, word by word."""
    said = normalise(prediction)
    return bool(said) and any(said == normalise(answer) for answer in answers)


def find_support(answer: str, passages: Sequence[Passage]) -> int | None:
    """Index of the first passage in which the answer's words occur in a row, or None."""
    said = normalise(answer)
    needle = f" {' '.join(said)} "
    hits = (index for index, passage in enumerate(passages) if needle in f" {' '.join(normalise(passage.text))} ")
    return next(hits, None) if said else None


def extract_features(question: str, answer: Answer, passages: Sequence[Passage]) -> Features:
    """Features of an answer to a question, given the passages found, best first."""
    return Features(
        mean_logprob=float(answer.mean_logprob),
        min_logprob=float(answer.min_logprob),
        retrieval_score=max((float(passage.similarity) for passage in passages), default=0.0),
        supported=float(find_support(answer.text, passages) is not None),
        num_question_words=float(len(question.split())),
    )
