"""Re-ranking: within its depth, by its weight, below it nothing changes."""

from pathlib import Path

import numpy as np
import pytest

from app.retrieval.index import write_index
from app.retrieval.rerank import mix
from app.retrieval.search import SearchIndex
from app.retrieval.settings import SearchSettings
from tests.retrieval.test_index import ROWS, VECTORS

FUSED = np.array([0.9, 0.7, 0.5, 0.4], dtype=np.float32)


class LastIsBest:
    """Scores by the number at the end of a text."""

    def scores(self, question, texts):
        assert all(text.startswith("T. H. t") for text in texts)
        return np.array([10 * float(text[-1]) for text in texts], dtype=np.float32)


@pytest.mark.parametrize(
    ("reranked", "weight", "expected"),
    [
        ([1, 2, 3], 0, FUSED),
        ([], 1, FUSED),
        ([1, 2, 3], 1, [0.5, 0.7, 0.9, 0.4]),
        ([3, 2, 1], 0.3, FUSED),
        ([5, 5, 5], 0.5, [0.7, 0.6, 0.5, 0.4]),
    ],
)
def test_the_mix_stays_on_the_scale_of_the_fused_scores(reranked, weight, expected):
    assert mix(FUSED, np.array(reranked, dtype=np.float32), weight=weight) == pytest.approx(expected, abs=1e-6)


def test_a_search_is_reranked_within_the_depth(tmp_path: Path):
    write_index(tmp_path, VECTORS, ROWS)
    index = SearchIndex.open(tmp_path)
    query = np.array([[0.9, 0.35, 0.25, 0.1, 0, 0, 0, 0]], dtype=np.float32)
    plain = index.search(["t"], query, 4)[0]
    assert [hit.chunk_id for hit in plain] == ["c0", "c1", "c2", "c3"]
    assert {hit.scores.reranked for hit in plain} == {None}
    how = SearchSettings(rerank_depth=3, rerank_weight=1)
    hits = index.search(["t"], query, 4, settings=how, reranker=LastIsBest())[0]
    assert [hit.chunk_id for hit in hits] == ["c2", "c1", "c0", "c3"]
    assert [hit.scores.reranked for hit in hits] == [20, 10, 0, None]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[2].scores.fused == plain[0].scores.fused
    assert index.search(["t"], query, 1, settings=how, reranker=LastIsBest())[0][0].chunk_id == "c2"
