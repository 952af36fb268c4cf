"""Exact match and token F1 as SQuAD defines them, and whether an answer contains a right one.

Source: Rajpurkar et al., SQuAD (2016), and its official script, from which this differs in two points: numbers keep
the marks between their digits (1.5 is not 15), and letters are compared without accents' encoding (NFKC).
Guarantees: outcomes lie between 0 and 1; the best of the accepted answers counts. Not guaranteed: fairness to answers
that are right in other words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = re.compile(r"(?<!\d)[^\w\s€$£%]|[^\w\s€$£%](?!\d)|_")


def normalise(text: str) -> str:
    """Lower case, no articles, no punctuation but between digits, single spaces."""
    plain = _MARKS.sub(" ", unicodedata.normalize("NFKC", text).lower())
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals an accepted answer, both normalised."""
    return float(normalise(prediction) in {normalise(answer) for answer in answers})


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over normalised words, for the accepted answer that fits best."""
    return max((_f1(normalise(prediction).split(), normalise(answer).split()) for answer in answers), default=0.0)


def contains(prediction: str, answers: Sequence[str]) -> float:
    """1 if an accepted answer occurs in the prediction, whole words, both normalised."""
    text = f" {normalise(prediction)} "
    wanted = [normalise(answer) for answer in answers]
    return float(any(answer and f" {answer} " in text for answer in wanted))


def _f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    num_shared = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * num_shared / (len(prediction) + len(answer))
