"""Weights of BM25's terms: which words and pairs of words tell more, or less, than their rarity says. Pure numpy.

How: over the candidates of a training question, the softmax of cosine and of BM25, whose terms have a factor each, is
to put the chunks that answer first; the factors' logarithms are learnt by Adam from 0, with decay. Learning to weigh
the terms of a query: Bendersky, Metzler and Croft, Learning Concept Importance Using a Weighted Dependence Model (WSDM
2010); the loss over a list: Cao et al., ListNet (ICML 2007).

Guarantees: the same questions, candidates and seed give the same weights; terms that no question has keep weight 1.
Not guaranteed: that weights help other questions; app.retrieval.finish looks.
"""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from app.retrieval.fusion import Candidates
from app.retrieval.learnt import Terms
from app.retrieval.settings import TuneSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST = 20.0
"""A weight, or its reciprocal, is never above it."""
DENSE_SCALE, LEXICAL_SCALE = 20.0, 8.0
BATCH = 64
DECAYS = (0.9, 0.999)
"""Adam's."""
Shares = tuple["NDArray[np.uint64]", "NDArray[np.float32]"]
"""The codes of a question's terms (t,), and what each adds to BM25's score of some chunks (t, n)."""


def learn_terms(
    questions: Sequence[str],
    gold: Sequence[Collection[int]],
    found: Sequence[Candidates],
    shares: Callable[[str, "NDArray[np.int64]"], Shares],
    *,
    settings: TuneSettings,
) -> Terms:
    """Factors of the terms of questions.

    Args:
        gold: rows that answer each.
        found: candidates of each, with their cosines.
        shares: of a question and some rows, what each term adds to BM25.
    """
    import numpy as np

    each = zip(questions, gold, found, strict=True)
    lists = [made for asked, wanted, at in each if (made := _List.of(at, wanted, *shares(asked, at.rows)))]
    codes = np.unique(np.concatenate([np.zeros(0, np.uint64), *(each.codes for each in lists)]))
    places = [np.searchsorted(codes, each.codes) for each in lists]
    learner = _Adam(np.zeros(len(codes) + 2), rate=settings.term_learning_rate)
    for numbers in _steps(len(lists), settings):
        batch = [(lists[number], places[number]) for number in numbers]
        learner.step(_gradient(learner.values, batch, settings.term_decay))
    weights = np.exp(np.clip(learner.values[2:], -np.log(LARGEST), np.log(LARGEST)))
    return Terms(codes, weights.astype(np.float32))


def _steps(num: int, settings: TuneSettings) -> Iterator[list[int]]:
    """Numbers of questions, a batch at a time, in another order in every epoch."""
    wanted, epoch = round(settings.term_epochs * num), 0
    while wanted > 0:
        order = random.Random(f"{settings.seed}/{epoch}").sample(range(num), num)[:wanted]
        yield from (order[start : start + BATCH] for start in range(0, len(order), BATCH))
        wanted, epoch = wanted - len(order), epoch + 1


@dataclass(frozen=True)
class _List:
    """A training question: cosines (n,) and answers (n,) of its candidates, its terms (t,) and their shares (t, n)."""

    dense: "NDArray[np.float32]"
    answers: "NDArray[np.bool_]"
    codes: "NDArray[np.uint64]"
    shares: "NDArray[np.float32]"

    @classmethod
    def of(
        cls, found: Candidates, gold: Collection[int], codes: "NDArray[np.uint64]", shares: "NDArray[np.float32]"
    ) -> Self | None:
        """The shares are brought to 1 for the best; None where there is nothing to learn."""
        import numpy as np

        answers = np.isin(found.rows, list(gold))
        if not len(codes) or not answers.any() or answers.all():
            return None
        best = max(float(shares.sum(axis=0).max()), 1e-6)
        return cls(found.dense, answers, codes, shares / np.float32(best))


def _gradient(
    values: "NDArray[np.float64]", batch: Sequence[tuple[_List, "NDArray[np.int64]"]], decay: float
) -> "NDArray[np.float64]":
    """Of the mean loss of some questions and the decay, by both scales and the terms (2 + number of terms,)."""
    import numpy as np

    gradient = np.zeros_like(values)
    dense_scale, lexical_scale = DENSE_SCALE * np.exp(values[0]), LEXICAL_SCALE * np.exp(values[1])
    for each, places in batch:
        factors = np.exp(values[2 + places])
        dense, lexical = dense_scale * each.dense, lexical_scale * (factors @ each.shares)
        change = _softmax(dense + lexical) - _softmax(np.where(each.answers, dense + lexical, -np.inf))
        gradient[:2] += change @ dense, change @ lexical
        np.add.at(gradient, 2 + places, lexical_scale * factors * (each.shares @ change))
    gradient /= len(batch)
    gradient[2:] += 2 * decay * values[2:]
    return gradient


def _softmax(scores: "NDArray[np.float64]") -> "NDArray[np.float64]":
    import numpy as np

    raised: NDArray[np.float64] = np.exp(scores - scores.max())
    raised /= raised.sum()
    return raised


class _Adam:
    """Kingma and Ba, Adam (ICLR 2015)."""

    def __init__(self, values: "NDArray[np.float64]", *, rate: float) -> None:
        self.values, self._rate, self._steps = values, rate, 0
        self._mean, self._square = values * 0, values * 0

    def step(self, gradient: "NDArray[np.float64]") -> None:
        """Move against a gradient."""
        import numpy as np

        self._steps += 1
        self._mean += (1 - DECAYS[0]) * (gradient - self._mean)
        self._square += (1 - DECAYS[1]) * (gradient**2 - self._square)
        mean, square = self._mean / (1 - DECAYS[0] ** self._steps), self._square / (1 - DECAYS[1] ** self._steps)
        self.values = self.values - self._rate * mean / (np.sqrt(square) + 1e-8)
