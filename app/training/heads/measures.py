"""How well a head does on rows that it has not learned: pure functions of what is right and what was said.

Sources: Rajpurkar et al., SQuAD (arXiv 1606.05250) for exact match and overlap of answers, SQuAD 2.0 (arXiv 1806.03822)
for questions without one; the entities of CoNLL-2003
(Tjong Kim Sang and De Meulder) for spans of tags.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.training.heads.rows import BEGIN, INSIDE, OUTSIDE

ARTICLES = re.compile(r"\b(a|an|the)\b")


def of_labels(right: Sequence[int], said: Sequence[int]) -> dict[str, float]:
    """`accuracy`, and `macro_f1`, the mean over the labels that are right or said somewhere."""
    from sklearn.metrics import accuracy_score, f1_score

    macro = f1_score(right, said, average="macro", zero_division=0.0)
    return {"accuracy": float(accuracy_score(right, said)), "macro_f1": float(macro)}


def of_label_sets(right: Sequence[Sequence[float]], said: Sequence[Sequence[bool]]) -> dict[str, float]:
    """`micro_f1` over all rows and labels, `macro_f1`, the mean over the labels, and `exact_match` of whole rows."""
    from sklearn.metrics import f1_score

    wanted, made = np.array(right, dtype=int), np.array(said, dtype=int)
    figures = {f"{how}_f1": float(f1_score(wanted, made, average=how, zero_division=0.0)) for how in ("micro", "macro")}
    return {**figures, "exact_match": float((wanted == made).all(axis=1).mean())}


def of_tags(right: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> dict[str, float]:
    """`accuracy` of words, and `span_f1`: of spans that have place and label right, over all rows; of tags that are no
    B-, I- and O, each word with another tag than O is a span."""
    words = [
        one == other for row, found in zip(right, said, strict=True) for one, other in zip(row, found, strict=True)
    ]
    wanted, made = ({(n, *span) for n, row in enumerate(rows) for span in spans_of(row)} for rows in (right, said))
    hits = len(wanted & made)
    total = len(wanted) + len(made)
    return {"accuracy": float(np.mean(words)), "span_f1": 2 * hits / total if total else 1.0}


def spans_of(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """First word, word after the last, and label of each span; an I- without its B- begins one."""
    spans: list[tuple[int, int, str]] = []
    for place, tag in enumerate(tags):
        label = tag.removeprefix(BEGIN).removeprefix(INSIDE)
        goes_on = bool(spans) and tag.startswith(INSIDE) and spans[-1][1:] == (place, label)
        if goes_on:
            spans[-1] = (spans[-1][0], place + 1, label)
        elif tag != OUTSIDE:
            spans.append((place, place + 1, label))
    return spans


def of_answers(right: Sequence[Sequence[str]], said: Sequence[str]) -> dict[str, float]:
    """`exact_match` and `f1` of the words in common, each against the best of a row's right answers; case,
    punctuation, articles and spaces do not count."""
    pairs = [[_compared(_plain(one), _plain(found)) for one in each] for each, found in zip(right, said, strict=True)]
    exact, overlap = ([max(each[number] for each in row) for row in pairs] for number in (0, 1))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap))}


class Located(NamedTuple):
    """What was found for a question."""

    right: list[str]
    """None where its context answers nothing."""
    said: str
    """The likeliest answer."""
    margin: float
    """By how much it is likelier that there is none, in the sum of two logits."""


def of_located(rows: Sequence[Located]) -> dict[str, float]:
    """`exact_match` and `f1` where none may be the answer, and `null_threshold`, the margin from which on it is said.

    The threshold is the one of most F1 on all rows; the figures are those of each half by the other half's threshold,
    so that no row counts that it was chosen on.
    """
    halves = rows[::2], rows[1::2]
    said = [
        (each.right or [""], "" if each.margin > threshold else each.said)
        for half, other in (halves, halves[::-1])
        for threshold in [null_threshold(other)]
        for each in half
    ]
    figures = of_answers(*zip(*said, strict=True))
    return {**figures, "null_threshold": null_threshold(rows)}


def null_threshold(rows: Sequence[Located]) -> float:
    """The margin over which to say that there is no answer: that of most F1; 0 without rows."""
    if not rows:
        return 0.0
    ordered = sorted(rows, key=lambda each: -each.margin)
    overlaps = [
        max((_compared(_plain(one), _plain(each.said))[1] for one in each.right), default=0.0) for each in ordered
    ]
    gains = [float(not each.right) - overlap for each, overlap in zip(ordered, overlaps, strict=True)]
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    num = int(np.argmax(sums))
    ends = [ordered[0].margin, *(each.margin for each in ordered), ordered[-1].margin - 1.0]
    return float((ends[num] + ends[num + 1]) / 2)


def _plain(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return ARTICLES.sub(" ", kept).split()


def _compared(right: Sequence[str], said: Sequence[str]) -> tuple[float, float]:
    if not right or not said:
        return float(right == said), float(right == said)
    common = sum((Counter(right) & Counter(said)).values())
    return float(right == said), 2 * common / (len(right) + len(said))


def of_scores(right: Sequence[float], said: Sequence[float]) -> dict[str, float]:
    """`spearman`, the correlation of ranks, 0 where all are alike; `mean_absolute_error`."""
    one, other = _ranks(right), _ranks(said)
    alike = np.ptp(one) == 0 or np.ptp(other) == 0
    error = float(np.mean(np.abs(np.subtract(right, said))))
    return {"spearman": 0.0 if alike else float(np.corrcoef(one, other)[0, 1]), "mean_absolute_error": error}


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """The rank of each value; those that are alike share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def best_span(ends: NDArray[np.float32], *, first: int, last: int, longest: int) -> tuple[int, int]:
    """First and last token of the likeliest answer within tokens ``first`` to ``last``.

    Args:
        ends: (2, tokens), logits of an answer's first and of its last token.
        longest: most tokens of an answer.
    """
    start, end = ends[0, first : last + 1], ends[1, first : last + 1]
    sums = start[:, None] + end[None]
    allowed = np.triu(np.ones_like(sums, dtype=bool)) & ~np.triu(np.ones_like(sums, dtype=bool), k=longest)
    place = int(np.argmax(np.where(allowed, sums, -np.inf)))
    return first + place // len(start), first + place % len(start)
