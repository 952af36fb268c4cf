"""BM25 over stemmed words: built from texts, written to a folder, opened from one by mapping it into memory.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), in Lucene's form; bm25s computes it.
Guarantees: equal texts and settings give equal bytes; a text's score does not depend on the batch. Not guaranteed: that
statistics hide what a caller may not see: how rare a word is, is counted over all texts, those with labels too.
"""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.core.errors import UsageError
from app.core.text import words
from app.inference.reader import STOP_WORDS
from app.retrieval.settings import LexicalSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS_FILE = "words.json"
MAX_STEMS = 100_000
ENGLISH, NO_STEMMER = "english", "none"


class NoStemmer(UsageError):
    """There is no stemmer for that language: the message names those that there are."""


class Analyser:
    """Text to stems: Unicode's compatible form, lower case, words, without stop words (English only), stemmed."""

    def __init__(self, language: str) -> None:
        """Raises NoStemmer when Snowball does not know the language."""
        self._stop = STOP_WORDS if language == ENGLISH else frozenset()
        self._stem = lru_cache(maxsize=MAX_STEMS)(_stemmer(language))

    def __call__(self, text: str) -> list[str]:
        return [self._stem(word) for word in words(text) if word not in self._stop]


class Lexical:
    """BM25 scores of a fixed list of texts."""

    def __init__(self, engine: Any, *, num_texts: int, settings: LexicalSettings) -> None:
        self._engine, self._num, self.settings = engine, num_texts, settings
        self._words: dict[str, int] = engine.vocab_dict if engine else {}
        self._analyse = Analyser(settings.language)

    @classmethod
    def build(cls, texts: Iterable[str], *, settings: LexicalSettings) -> Self:
        """Index texts; where no text has a word, every score is 0."""
        import bm25s

        analyse, words = Analyser(settings.language), dict[str, int]()
        coded = [[words.setdefault(word, len(words)) for word in analyse(text)] for text in texts]
        if not words:
            return cls(None, num_texts=len(coded), settings=settings)
        engine = bm25s.BM25(method="lucene", k1=settings.k1, b=settings.b, backend="numpy")
        engine.index((coded, words), create_empty_token=False, show_progress=False)
        return cls(engine, num_texts=len(coded), settings=settings)

    def write(self, folder: Path) -> None:
        """Write to a new folder."""
        folder.mkdir()
        about = {"num_texts": self._num, "empty": self._engine is None, **self.settings.model_dump(mode="json")}
        (folder / WORDS_FILE).write_text(json.dumps(about))
        if self._engine:
            self._engine.save(folder, show_progress=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map what ``write`` wrote.

        Raises:
            OSError, ValueError, KeyError: it is missing or damaged.
        """
        import bm25s

        about = json.loads((folder / WORDS_FILE).read_text())
        num, empty = about.pop("num_texts"), about.pop("empty")
        engine = None if empty else bm25s.BM25.load(folder, mmap=True, show_progress=False)
        return cls(engine, num_texts=num, settings=LexicalSettings(**about))

    def part(self, start: int, stop: int) -> "Lexical":
        """BM25 of the texts from ``start`` to before ``stop``: their scores stay those among all texts."""
        import numpy as np

        if self._engine is None:
            return Lexical(None, num_texts=stop - start, settings=self.settings)
        engine, scores = copy(self._engine), self._engine.scores
        inside = (scores["indices"] >= start) & (scores["indices"] < stop)
        ends = np.concatenate([[0], np.cumsum(inside)]).astype(scores["indptr"].dtype)
        indices = (scores["indices"][inside] - start).astype(scores["indices"].dtype)
        kept = {"data": scores["data"][inside], "indices": indices, "indptr": ends[scores["indptr"]]}
        engine.scores = {**scores, **kept, "num_docs": stop - start}
        return Lexical(engine, num_texts=stop - start, settings=self.settings)

    def __len__(self) -> int:
        return self._num

    def scores(self, question: str) -> "NDArray[np.float32]":
        """The BM25 score of every text, float32 (n,); 0 for texts that share no word with the question."""
        import numpy as np

        words = [self._words[word] for word in self._analyse(question) if word in self._words]
        if not words:
            return np.zeros(self._num, dtype=np.float32)
        found: NDArray[np.float32] = self._engine.get_scores_from_ids(words)
        return found


def joined(title: str, heading_path: Sequence[str], text: str, *, headings: bool) -> str:
    """What of a chunk is matched: its text, behind title and headings."""
    return "\n".join(dict.fromkeys([title, *heading_path, text])) if headings else text


def _stemmer(language: str) -> Callable[[str], str]:
    import Stemmer

    if language == NO_STEMMER:
        return str
    if language not in Stemmer.algorithms():
        known = ", ".join([NO_STEMMER, *Stemmer.algorithms()])
        raise NoStemmer(f"there is no stemmer for {language!r}: set retrieval.lexical.language to one of {known}")
    stemmer, lock = Stemmer.Stemmer(language, 0), threading.Lock()

    def stem(word: str) -> str:
        with lock:  # a stemmer must not be used by two threads at a time
            return str(stemmer.stemWord(word))

    return stem
