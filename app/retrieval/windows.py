"""A long chunk has several vectors, one for each of its windows; a chunk's cosine is that of the window that fits best.

Source: Dai and Callan, Deeper Text Understanding for IR with Contextual Neural Language Modeling (SIGIR 2019): MaxP.
Guarantees: a chunk that the encoder takes whole has one vector, and so has every chunk of an index written before there
were windows; no token of a long chunk is left out; a mask over chunks hides all their windows. Not guaranteed: that an
index kind which is not exact finds every near window.
"""

from typing import TYPE_CHECKING

from app.core.errors import SignalboxError
from app.retrieval import vectors as faiss_kinds

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

SPECIAL_TOKENS = 2
WINDOWS_AHEAD = 4
"""So many windows are looked at for each chunk wanted, and as many times more while too few chunks are found."""


class WindowsBroken(SignalboxError):
    """An index's windows and chunks do not belong together: build the index again."""


def cut(heading: str, text: str, *, tokenizer: "Tokenizer", max_tokens: int, size: int, overlap: float) -> list[str]:
    """What is embedded of a chunk: all of it where it fits, else windows of ``size`` tokens, each behind the heading.

    Args:
        heading: what stands before every window, its separator included; at most half a window of it is kept.
        tokenizer: one that does not cut.
        max_tokens: tokens that the encoder takes, special ones included.
        overlap: share of a window that the next one repeats.
    """
    head, body = (tokenizer.encode(part, add_special_tokens=False) for part in (heading, text))
    if len(head.ids) + len(body.ids) + SPECIAL_TOKENS <= max_tokens:
        return [heading + text]
    kept = min(len(head.ids), size // 2)
    heading = heading if kept == len(head.ids) else heading[: head.offsets[kept - 1][1]] + " "
    room = size - SPECIAL_TOKENS - kept
    step = max(1, round(room * (1 - overlap)))
    starts = range(0, max(len(body.ids) - room, 0) + step, step)
    parts = [body.offsets[start : start + room] for start in starts]
    return [heading + text[part[0][0] : part[-1][1]] for part in parts if part] or [heading + text]


class ChunkVectors:
    """The vectors of an index, seen as chunks: row ``n`` is chunk ``n`` of the chunk table."""

    def __init__(self, index: "faiss.Index", rows: "NDArray[np.int64] | None" = None) -> None:
        """Take an index, and the chunk of each of its vectors, ascending; None: vector ``n`` is of chunk ``n``.

        Raises:
            WindowsBroken: the rows are not as many as the vectors, not ascending, or leave a chunk out.
        """
        import numpy as np

        self._index, num = index, index.ntotal
        self._rows = np.arange(num) if rows is None else rows
        steps = np.diff(self._rows, prepend=-1)
        if len(self._rows) != num or np.any((steps != 0) & (steps != 1)) or (num and self._rows[0] != 0):
            raise WindowsBroken(f"{num} vectors for {len(self._rows)} windows: build the index again")
        self._starts = np.append(np.flatnonzero(steps), num)

    def __len__(self) -> int:
        """The number of chunks."""
        return len(self._starts) - 1

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self._index.d)

    @property
    def num_vectors(self) -> int:
        """Vectors of all chunks together."""
        return int(self._index.ntotal)

    def nearest(
        self, vectors: "NDArray[np.float32]", num: int, mask: "NDArray[np.bool_] | None" = None
    ) -> "list[NDArray[np.int64]]":
        """The ``num`` chunks nearest to each vector (n, dim), best first; fewer where a mask leaves fewer chunks."""
        import numpy as np

        if not len(self):
            return [np.zeros(0, dtype=np.int64) for _ in vectors]
        hidden = None if mask is None else mask[self._rows]
        single = len(self) == self._index.ntotal
        allowed = len(self) if mask is None else int(mask.sum())
        k = num if single else num * max(WINDOWS_AHEAD, -(-self.num_vectors // len(self)))
        while True:
            _, ids = faiss_kinds.search(self._index, np.ascontiguousarray(vectors), k, hidden)
            found = [_first(self._rows[each[each >= 0]])[:num] for each in ids]
            if single or k >= self._index.ntotal or all(len(each) >= min(num, allowed) for each in found):
                return found
            k *= WINDOWS_AHEAD

    def of_chunks(self) -> "list[NDArray[np.float32]]":
        """The vectors of every chunk, float32 (windows, dim) each; coarser than they were in ``ivf-rabitq``."""
        import numpy as np

        vectors = self._index.reconstruct_n(0, self._index.ntotal)
        return np.split(vectors, self._starts[1:-1]) if len(self) else []

    def cosines(self, vector: "NDArray[np.float32]", rows: "NDArray[np.int64]") -> "NDArray[np.float32]":
        """The cosine (m,) of a vector (dim,) with the best window of each of some chunks (m,)."""
        import numpy as np

        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        lengths = self._starts[rows + 1] - self._starts[rows]
        firsts = np.cumsum(lengths) - lengths
        ids = np.arange(lengths.sum()) + np.repeat(self._starts[rows] - firsts, lengths)
        best: NDArray[np.float32] = np.maximum.reduceat(faiss_kinds.cosines(self._index, vector, ids), firsts)
        return best


def _first(rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Different rows in the order in which they first occur."""
    import numpy as np

    _, places = np.unique(rows, return_index=True)
    return rows[np.sort(places)]
