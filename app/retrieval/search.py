"""Search an index version: vectors in, the nearest chunks out.

Guarantees: hits come best first, at most ``k``, with the cosine as the score; opening maps the vectors into memory.
Not guaranteed: that a best hit is a good one; a threshold is the caller's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.retrieval.index import read_index

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Hit:
    """A chunk found. ``score`` is the cosine of question and chunk."""

    chunk_id: str
    document_id: str
    source: str
    title: str
    heading_path: tuple[str, ...]
    text: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        return asdict(self) | {"heading_path": list(self.heading_path)}


class SearchIndex:
    """An opened index."""

    def __init__(self, index: "faiss.Index", rows: Sequence[dict[str, Any]]) -> None:
        self._index, self._rows = index, rows

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open an index version's folder.

        Raises:
            IndexBroken: it is not one, or it is damaged.
        """
        return cls(*read_index(folder))

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, vectors: "NDArray[np.float32]", k: int) -> list[list[Hit]]:
        """The ``k`` nearest chunks of each vector; vectors are float32 of shape (n, dim) and unit length."""
        scores, places = self._index.search(vectors, min(k, len(self)))
        return [
            [self._hit(int(place), float(score)) for place, score in zip(found, values, strict=True) if place >= 0]
            for found, values in zip(places, scores, strict=True)
        ]

    def _hit(self, place: int, score: float) -> Hit:
        row = self._rows[place]
        return Hit(
            chunk_id=row["chunk_id"],
            document_id=row["document_id"],
            source=row["source"],
            title=row["title"],
            heading_path=tuple(row["heading_path"]),
            text=row["text"],
            score=score,
        )
