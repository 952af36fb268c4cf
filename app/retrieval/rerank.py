"""A second look at the best hits: a re-ranker's scores, mixed with the fused ones. Pure.

How: the best of a ranking are scored anew; both scores are brought to 0 to 1 over these, and mixed by a weight; the mix
is put back on the scale of the fused scores, between the best and the worst of them.

Guarantees: what lies below the depth keeps its place and score, and stays below; weight 0 changes nothing. Not
guaranteed: that the re-ranker knows better; weight and depth are chosen on held-out questions (app.retrieval.tuning).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from app.retrieval.fusion import normalise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Reranks(Protocol):
    """What gives a text a score for a question; app.inference.reranker.Reranker does."""

    def scores(self, question: str, texts: Sequence[str]) -> "NDArray[np.float32]":
        """float32 (len(texts),), higher is better."""
        ...


def mix(fused: "NDArray[np.float32]", reranked: "NDArray[np.float32]", *, weight: float) -> "NDArray[np.float32]":
    """Scores (n,) of a ranking whose first m were scored anew.

    Args:
        fused: (n,), best first.
        reranked: (m,), of the first m.
        weight: of ``reranked``, 0 to 1.
    """
    num = len(reranked)
    if not num or not weight:
        return fused
    top = fused[:num]
    mixed = weight * normalise(reranked, floor=None) + (1 - weight) * normalise(top, floor=None)
    changed = fused.copy()
    changed[:num] = top[-1] + (top[0] - top[-1]) * mixed
    return changed


def passage_of(heading_path: Sequence[str], text: str) -> str:
    """What of a chunk a re-ranker reads."""
    return ". ".join([*heading_path, text])
