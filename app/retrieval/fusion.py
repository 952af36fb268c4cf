"""The scores of each candidate to one. Pure.

Source: Bruch, Gai and Ingber, An Analysis of Fusion Functions for Hybrid Retrieval (TOIS 2023): the convex combination
with theoretical minima; Cormack, Clarke and Buettcher, Reciprocal Rank Fusion (SIGIR 2009), constant 60.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.retrieval.settings import SearchSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RRF_CONSTANT = 60


@dataclass(frozen=True)
class Candidates:
    """Rows of the chunk table that one question could be answered by, with their scores (n,); in no order."""

    rows: "NDArray[np.int64]"
    dense: "NDArray[np.float32]"
    lexical: "NDArray[np.float32]"
    titles: "NDArray[np.float32]"


def fuse(found: Candidates, how: SearchSettings) -> "NDArray[np.float32]":
    """One score per candidate (n,), higher is better."""
    dense, lexical = found.dense, found.lexical
    if how.fusion == "rrf":
        return _reciprocal(dense) + _reciprocal(lexical)
    weight = {"dense": 1.0, "lexical": 0.0}.get(how.fusion, how.dense_weight)
    fused = weight * normalise(dense, floor=None) + (1 - weight) * normalise(lexical, floor=0.0)
    return fused + how.title_weight * found.titles if how.fusion == "convex" else fused


def normalise(scores: "NDArray[np.float32]", *, floor: float | None) -> "NDArray[np.float32]":
    """Scores of one query on 0 to 1: the best is 1, ``floor`` (or the least) is 0; all 0 where all are equal."""
    import numpy as np

    low = float(scores.min(initial=np.inf)) if floor is None else floor
    width = float(scores.max(initial=low)) - low
    return (scores - low) / width if width > 0 else np.zeros_like(scores)


def _reciprocal(scores: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """The reciprocal of each rank, softened; equal scores are ranked in their order."""
    import numpy as np

    ranks = np.empty(len(scores), dtype=np.float32)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    reciprocal: NDArray[np.float32] = np.reciprocal(ranks + np.float32(RRF_CONSTANT))
    return reciprocal
