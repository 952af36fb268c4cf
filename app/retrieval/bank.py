"""The vectors of chunks that questions are taught to find: all of them at once, or some of a large index's. Pure numpy.

Guarantees: of the chunks that are kept, every window is; what is asked for first is kept. Not guaranteed: exact vectors
of an index that keeps them coarser than they were (``ivf-rabitq``).
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.retrieval.shards import Local

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTORS_FILE, ROWS_FILE = "vectors.npy", "rows.npy"


@dataclass(frozen=True)
class Bank:
    """Vectors (m, dim) of unit length, and the row of the chunk table that each belongs to (m,), ascending."""

    vectors: "NDArray[np.float32]"
    rows: "NDArray[np.int64]"

    @classmethod
    def of_parts(cls, parts: Local) -> Self:
        """All vectors of an index."""
        import numpy as np

        each = [vectors for shard in parts.shards for vectors in shard.parts.vectors.of_chunks()]
        return cls(np.concatenate(each), np.repeat(np.arange(len(each)), [len(vectors) for vectors in each]))

    def limited(self, first: Collection[int], *, most: int) -> Self:
        """The vectors of at most so many chunks: of ``first``, then of others, evenly taken."""
        import numpy as np

        known = np.unique(self.rows)
        if len(known) <= most:
            return self
        wanted = np.isin(known, list(first))
        others = known[~wanted]
        room = max(0, most - int(wanted.sum()))
        kept = np.concatenate([known[wanted], others[np.linspace(0, len(others) - 1, room, dtype=np.int64)]])
        chosen = np.isin(self.rows, kept)
        return type(self)(self.vectors[chosen], self.rows[chosen])

    def write(self, folder: Path) -> None:
        """Write to a run's folder."""
        import numpy as np

        np.save(folder / VECTORS_FILE, self.vectors)
        np.save(folder / ROWS_FILE, self.rows)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """What ``write`` wrote, mapped into memory."""
        import numpy as np

        return cls(np.load(folder / VECTORS_FILE, mmap_mode="r"), np.load(folder / ROWS_FILE))
