"""Questions in, hits out: an index together with the encoders and the re-ranker that it was made with.

Guarantees: an index is never searched with vectors of another encoder than its own; what does not fit is refused when
it is put together, before a question is asked. Not guaranteed: that two indexes share a retriever in memory; whoever
serves several puts them together itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from app.inference.encoder import Encoder
from app.inference.retrievers import Models, RetrieverMismatch, source_of
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder
from app.retrieval.filters import PUBLIC, Scope
from app.retrieval.search import Hit, SearchIndex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Searcher:
    """An opened index and what it was made with."""

    index: SearchIndex
    models: Models

    @property
    def encoder(self) -> Encoder:
        """What the index's texts were embedded with."""
        return self.models.encoder

    @property
    def questions(self) -> Encoder:
        """What questions are embedded with."""
        return self.models.questions

    def __post_init__(self) -> None:
        """RetrieverMismatch when vectors of an encoder are of another size than those of the index."""
        if wrong := {self.encoder.dim, self.questions.dim} - {self.index.dim}:
            said = f"the index holds vectors of {self.index.dim} numbers, its encoder makes {wrong.pop()}"
            raise RetrieverMismatch(f"{said}: build the index again with this retriever")

    @classmethod
    def open(cls, index: Version, *, registry: Registry, num_threads: int = 1) -> Self:
        """Open an index version and what it was made with.

        Raises:
            ArtifactChanged: a file of the index or of its retriever is not the one that was published.
            RetrieverMismatch: they do not belong together, or there is no such retriever.
        """
        models = source_of(index, registry=registry).load(num_threads=num_threads)
        return cls(SearchIndex.open(whole_folder(index, registry)), models)

    def search(
        self, questions: Sequence[str], k: int, *, scope: Scope = PUBLIC, vectors: "NDArray[np.float32] | None" = None
    ) -> list[list[Hit]]:
        """The ``k`` best chunks of each question within a scope.

        Args:
            vectors: the questions' own, float32 (n, dim), by ``questions``; None: they are encoded here.
        """
        coded = self.questions.encode(questions) if vectors is None else vectors
        return self.index.search(questions, coded, k, scope=scope, reranker=self.models.reranker)
