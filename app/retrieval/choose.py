"""How much of what was learnt, of the vectors and of the re-ranker to take: chosen on questions nobody trained on.

How: what BM25 learnt is taken as far as it helps beside the base's vectors; the tuned and the base weights are averaged
at a few shares (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022); every held-out question is
searched for under each, and the fusion's weight is calibrated anew; then the re-ranker scores the best, and its depth
and weight are taken from a grid: of the settings that are as good as the best, within one paired standard error, one of
the least depth, for time (the one-standard-error rule: Breiman et al., Classification and Regression Trees, 1984;
Hastie et al., The Elements of Statistical Learning, 2009, 7.10). By nDCG@10; of equals, the one nearer to the base.

Guarantees: share 0, and weight 0 of a re-ranker, are among the choices, so that on the held-out questions a tuned
retriever is never below its base. Not guaranteed: that the figures are as good on other questions: some forty choices
are made on them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from app.core.statistics import bootstrap_mean, paired_bootstrap
from app.retrieval.calibrate import best_weight
from app.retrieval.fusion import Candidates, fuse
from app.retrieval.measure import DEPTH, MEASURES, measure, ndcg
from app.retrieval.rerank import mix
from app.retrieval.settings import SearchSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = tuple(round(step / 10, 1) for step in range(11))


class Reranks(Protocol):
    """What scores texts; app.inference.reranker.Reranker does."""

    def many(self, questions: Sequence[str], texts: Sequence[Sequence[str]]) -> "list[NDArray[np.float32]]":
        """Scores of each question's texts."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """Questions, the rows that answer each, and what the base's search puts forward."""

    questions: list[str]
    gold: list[frozenset[int]]
    found: list[Candidates]


@dataclass(frozen=True)
class Chosen:
    """A share of the tuned weights, the fusion with it, and what the candidates are worth then."""

    share: float
    search: SearchSettings
    ndcg_at_10: float
    found: list[Candidates]


@dataclass(frozen=True)
class Reranking:
    """How far and how much to re-rank; weight 0: not at all."""

    depth: int
    weight: float


def choose_share(held: HeldOut, by_share: Mapping[float, list[Candidates]], search: SearchSettings) -> Chosen:
    """The best share of the tuned weights, and of the vectors with it."""
    chosen: Chosen | None = None
    for share, found in sorted(by_share.items()):
        best = best_weight(found, held.gold, settings=search)
        how = search.model_copy(update={"fusion": "convex", "dense_weight": best.dense_weight})
        if chosen is None or best.ndcg_at_10 > chosen.ndcg_at_10:
            chosen = Chosen(share, how, best.ndcg_at_10, found)
    assert chosen is not None
    return chosen


def ranked(
    found: Sequence[Candidates], search: SearchSettings, *, num: int
) -> "list[tuple[NDArray[np.int64], NDArray[np.float32]]]":
    """The best rows of each question with their fused scores."""
    import numpy as np

    results = []
    for each in found:
        fused = fuse(each, search)
        order = np.argsort(-fused, kind="stable")[:num]
        results.append((each.rows[order], fused[order]))
    return results


def choose_reranking(
    held: HeldOut, chosen: Chosen, reranker: Reranks, texts: Sequence[str], *, depths: Sequence[int]
) -> tuple[Reranking, "list[NDArray[np.int64]]"]:
    """Depth and weight, and the rows that each question finds with them."""
    deepest = max(*depths, DEPTH)
    before = ranked(chosen.found, chosen.search, num=deepest)
    again = reranker.many(held.questions, [[texts[row] for row in rows[: max(depths)]] for rows, _ in before])

    def rows_of(how: Reranking) -> "list[NDArray[np.int64]]":
        mixed = (
            mix(fused, scores[: how.depth], weight=how.weight) for (_, fused), scores in zip(before, again, strict=True)
        )
        return [rows[(-each).argsort(kind="stable")] for (rows, _), each in zip(before, mixed, strict=True)]

    without = Reranking(min(depths), 0.0)
    choices = [without, *(Reranking(depth, weight) for depth in sorted(depths) for weight in WEIGHTS[1:])]
    best = shallowest({how: gains(rows_of(how), held.gold) for how in choices}, without)
    return best, rows_of(best)


def shallowest(values: "Mapping[Reranking, NDArray[np.float64]]", without: Reranking) -> Reranking:
    """Of settings that are as good as the best, by every question's nDCG@10: the least depth, there the middle weight.

    As good: lower by no more than the standard error of the difference, question by question (Breiman et al. 1984); and
    better than ``without``, or that comes back.
    """
    best = max(values, key=lambda how: float(values[how].mean()))
    better = [how for how in values if values[how].mean() > values[without].mean()]
    lost = {how: values[best] - values[how] for how in better}
    near = [how for how, each in lost.items() if each.mean() <= each.std() / len(each) ** 0.5]
    if not near:
        return without
    depth = min(how.depth for how in near)
    weights = {how.weight: how for how in near if how.depth == depth}
    middle = (min(weights) + max(weights)) / 2
    return weights[min(weights, key=lambda weight: abs(weight - middle))]


def gains(rows: Sequence[Any], gold: Sequence[Collection[int]]) -> "NDArray[np.float64]":
    """nDCG@10 of each ranking (n,)."""
    import numpy as np

    given = zip(rows, gold, strict=True)
    return np.array(
        [ndcg([int(row) in wanted for row in found[:DEPTH]], num_relevant=len(wanted)) for found, wanted in given]
    )


def outcomes(rows: Sequence[Any], gold: Sequence[Collection[int]]) -> dict[str, list[float]]:
    """Every measure of every question."""
    names = [str(number) for number in range(len(gold))]
    found = {name: [str(row) for row in each[:DEPTH]] for name, each in zip(names, rows, strict=True)}
    return measure(found, {name: set(map(str, each)) for name, each in zip(names, gold, strict=True)})


def compared(before: Mapping[str, list[float]], after: Mapping[str, list[float]]) -> dict[str, Any]:
    """Each measure before and after, and the change, under bootstrap intervals; questions stay paired."""
    return {
        name: {
            "before": bootstrap_mean(before[name]).to_dict(),
            "after": bootstrap_mean(after[name]).to_dict(),
            "change": paired_bootstrap(before[name], after[name]).to_dict(),
        }
        for name in MEASURES
    }


def average(base: Mapping[str, Any], tuned: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Weights between the base's (share 0) and the tuned (1), by name."""
    return {name: (1 - share) * base[name].float() + share * value.float() for name, value in tuned.items()}
