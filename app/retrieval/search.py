"""Search an index version: questions and their vectors in, the best chunks out.

How: each part (cosines by FAISS, BM25) puts its best candidates forward; every candidate gets both scores, exactly;
they are fused by a convex combination of scores normalised per query, or as the index's settings say. Where a re-ranker
is given, it has a second look at the best (app.retrieval.rerank).

Guarantees: hits come best first, at most ``k``, and none that the scope hides: limits hold before ranking, in both
parts, and hidden chunks take part in no scale; opening maps vectors and BM25 into memory. Not guaranteed: that a best
hit is a good one; a threshold is the caller's, and is best put on ``similarity``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.retrieval.filters import DATE, PUBLIC, Scope
from app.retrieval.fusion import Candidates, fuse
from app.retrieval.index import read_settings
from app.retrieval.rerank import Reranks, mix, passage_of
from app.retrieval.settings import SearchSettings
from app.retrieval.shards import Local, Parts, gather

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("chunk_id", "document_id", "source", "title", "heading_path", "text")
PLACES = {"page": "page_start", "page_end": "page_end", "date": DATE}


@dataclass(frozen=True)
class Scores:
    """What each part made of a chunk: the cosine of its best window, BM25, and both on the query's own scale, 0 to 1,
    fused, with what the settings add for a title that the question names (0 to 1, by how far it names it).

    ``reranked`` is the re-ranker's own score, on no fixed scale, of the chunks that it saw.
    """

    dense: float
    lexical: float
    fused: float
    title: float = 0.0
    reranked: float | None = None


@dataclass(frozen=True)
class Hit:
    """A chunk found. ``score`` orders the hits of one question; ``similarity`` is the cosine of question and chunk."""

    chunk_id: str
    document_id: str
    source: str
    title: str
    heading_path: tuple[str, ...]
    text: str
    score: float
    similarity: float
    scores: Scores
    page: int | None = None
    page_end: int | None = None
    date: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        return asdict(self) | {"heading_path": list(self.heading_path)}


class SearchIndex:
    """An opened index."""

    def __init__(self, parts: Parts, *, settings: SearchSettings, dim: int) -> None:
        """Take the parts of an index, how it is searched, and how many numbers its vectors have."""
        self._parts, self.settings, self.dim = parts, settings, dim

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open an index version's folder, all its shards where it is divided.

        Raises:
            IndexBroken: it is not one, or it is damaged.
        """
        parts = Local.open(folder)
        return cls.of(parts, folder, dim=parts.shards[0].parts.vectors.dim)

    @classmethod
    def of(cls, parts: Parts, folder: Path, *, dim: int) -> Self:
        """An index whose parts are opened already, here or elsewhere, searched as its folder says.

        Raises:
            IndexBroken: the folder does not say how.
        """
        return cls(parts, settings=read_settings(folder)[0], dim=dim)

    def __len__(self) -> int:
        return len(self._parts)

    def places(self, *, chunk_id: str | None = None, source: str | None = None) -> list[int]:
        """Rows of the chunk table with that id; where there is none, those of the document with that source."""
        return self._by_id.get(chunk_id or "") or self._by_source.get(source or "", [])

    @cached_property
    def _by_id(self) -> dict[str, list[int]]:
        return self._parts.places("chunk_id")

    @cached_property
    def _by_source(self) -> dict[str, list[int]]:
        return self._parts.places("source")

    def search(
        self,
        questions: Sequence[str],
        vectors: "NDArray[np.float32]",
        k: int,
        *,
        scope: Scope = PUBLIC,
        settings: SearchSettings | None = None,
        reranker: Reranks | None = None,
    ) -> list[list[Hit]]:
        """The ``k`` best chunks of each question within a scope.

        Args:
            vectors: the questions' embeddings, float32 (n, dim), unit length.
            settings: how to fuse, and how far and how much to re-rank; default: the index's own.
            reranker: scores the best of each question anew.
        """
        how = settings or self.settings
        found = self.candidates(questions, vectors, num=max(how.num_candidates, k), scope=scope)
        return [self._best(asked, each, k, how, reranker) for asked, each in zip(questions, found, strict=True)]

    def candidates(
        self, questions: Sequence[str], vectors: "NDArray[np.float32]", *, num: int, scope: Scope = PUBLIC
    ) -> list[Candidates]:
        """What cosine and BM25 find for each question, ``num`` chunks each, with the scores of all of them."""
        found = self._parts.candidates(questions, vectors, num, scope)
        return [gather(each, num) for each in zip(*found, strict=True)]

    def _best(
        self, question: str, found: Candidates, k: int, how: SearchSettings, reranker: Reranks | None
    ) -> list[Hit]:
        import numpy as np

        fused = fuse(found, how)
        order = np.argsort(-fused, kind="stable")[: max(k, how.rerank_depth) if reranker else k]
        rows = self._parts.take(found.rows[order].tolist())
        again = _scored(reranker, question, rows[: how.rerank_depth]) if reranker else np.zeros(0, np.float32)
        final = mix(fused[order], again, weight=how.rerank_weight)
        parts = (found.dense[order], found.lexical[order], fused[order], found.titles[order])
        hits = []
        for place in np.argsort(-final, kind="stable")[:k]:
            dense, lexical, both, title = (float(each[place]) for each in parts)
            scores = Scores(dense, lexical, both, title, float(again[place]) if place < len(again) else None)
            hits.append(_hit(rows[place], scores, score=float(final[place])))
        return hits


def _scored(reranker: Reranks, question: str, rows: Sequence[dict[str, Any]]) -> "NDArray[np.float32]":
    return reranker.scores(question, [passage_of(row["heading_path"], row["text"]) for row in rows])


def _hit(row: dict[str, Any], scores: Scores, *, score: float) -> Hit:
    known: dict[str, Any] = {name: row[name] for name in COLUMNS} | {"heading_path": tuple(row["heading_path"])}
    where: dict[str, Any] = {name: row.get(column) for name, column in PLACES.items()}
    return Hit(**known, **where, score=score, similarity=scores.dense, scores=scores)
