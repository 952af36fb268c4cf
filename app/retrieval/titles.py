"""Documents that are one chunk, and whose title a question names: a third score beside cosine and BM25.

A title is named when its stems stand in the question's, in a row. The score is the share of the question's stems that
it takes, so that the longest title named wins; ``FOLDED`` of that where the question spells it in another case. A
document of several chunks gets none: its title says what all of them are about, not which of them answers.

Guarantees: 0 where a document has no title or the question does not name it; a chunk's score depends on the question
and its own document alone. Not guaranteed: that a document is about its title, or that no title is an everyday word.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from app.retrieval.lexical import Analyser

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

FOLDED = 0.8
TITLES_KEPT = 20_000


class Titles:
    """Scores of a chunk table's titles."""

    def __init__(self, chunks: "pa.Table", *, language: str) -> None:
        """Take the table; NoStemmer when Snowball does not know the language."""
        import numpy as np

        of_document = chunks["document_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        self._alone = np.bincount(of_document)[of_document] == 1 if len(chunks) else np.zeros(0, dtype=bool)
        encoded = chunks["title"].combine_chunks().dictionary_encode()
        self._titles, self._codes = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False)
        self._analyse = Analyser(language)
        self._stems = lru_cache(maxsize=TITLES_KEPT)(lambda code: self._analyse(self._titles[code].as_py()))

    def scores(self, question: str, rows: "NDArray[np.int64]") -> "NDArray[np.float32]":
        """The score of some rows (m,), float32, 0 to 1."""
        import numpy as np

        stems = self._analyse(question)
        codes, places = np.unique(self._codes[rows], return_inverse=True)
        scores = np.array([self._score(int(code), question, stems) for code in codes], dtype=np.float32)
        return scores[places] * self._alone[rows] if len(rows) else np.zeros(0, dtype=np.float32)

    def _score(self, code: int, question: str, stems: list[str]) -> float:
        named = self._stems(code)
        if not named or f" {' '.join(named)} " not in f" {' '.join(stems)} ":
            return 0.0
        return len(named) / len(stems) * (1.0 if self._titles[code].as_py() in question else FOLDED)
