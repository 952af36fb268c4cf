"""Measures of a ranking, by ir-measures: recall, reciprocal rank, average precision, nDCG, per question.

Guarantees: relevance is binary; a question's recall is the share of its relevant items that were found; questions
without any found item count with 0. Source: the definitions of trec_eval, which ir-measures runs.
"""

import math
from collections.abc import Mapping, Sequence

DEPTH = 10
MEASURES = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "mrr_at_10": "RR@10",
    "map_at_10": "AP@10",
    "ndcg_at_10": "nDCG@10",
}


def measure(found: Mapping[str, Sequence[str]], relevant: Mapping[str, set[str]]) -> dict[str, list[float]]:
    """Every measure of every question, in the order of ``relevant``.

    Args:
        found: question id -> ids found, best first.
        relevant: question id -> ids that answer it, at least one each.
    """
    import ir_measures

    parsed = {ir_measures.parse_measure(text): name for name, text in MEASURES.items()}
    judged = {question: dict.fromkeys(ids, 1) for question, ids in relevant.items()}
    # trec_eval orders by score and then by id: scores are made from ranks, so that ties stay as they were found
    run = {question: {each: -float(rank) for rank, each in enumerate(ids)} for question, ids in found.items()}
    values: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    for metric in ir_measures.iter_calc(list(parsed), judged, run):
        values[parsed[metric.measure]][metric.query_id] = float(metric.value)
    return {name: [known.get(question, 0.0) for question in relevant] for name, known in values.items()}


def ndcg(hits: Sequence[bool], *, num_relevant: int) -> float:
    """nDCG of one ranking of binary relevance, cut where ``hits`` ends."""
    gain = sum(1 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
    best = sum(1 / math.log2(rank + 2) for rank in range(min(len(hits), num_relevant)))
    return gain / best if best else 0.0
