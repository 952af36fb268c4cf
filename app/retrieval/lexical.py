"""BM25 over stemmed words and pairs of neighbours: built from texts, written to a folder, opened by mapping it.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), in Lucene's form; bm25s computes it. Pairs
of neighbouring words are terms of their own, at a weight of their own (the ordered phrases of Metzler and Croft, A
Markov Random Field Model for Term Dependencies, SIGIR 2005): "relevant person" is rarer than its words.
Guarantees: equal texts and settings give equal bytes; a text's score does not depend on the batch. Not guaranteed: that
statistics hide what a caller may not see: how rare a word is, is counted over all texts, those with labels too.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.core.errors import UsageError
from app.core.text import words
from app.inference.reader import STOP_WORDS
from app.retrieval.learnt import Terms, codes_of, codes_of_pairs
from app.retrieval.settings import LexicalSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS_FILE, PAIRS_FILE = "words.json", "pairs.npy"
MAX_STEMS = 100_000
MOST_WORDS = 1 << 31
BEFORE_PAIRS = {"pair_weight": 0.0}
"""Settings of an index that was written before pairs were counted."""
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
    """BM25 scores of a fixed list of texts; the engine's terms are the words, and behind them the pairs."""

    def __init__(
        self, engine: Any, *, pairs: "NDArray[np.int64] | None" = None, num_texts: int, settings: LexicalSettings
    ) -> None:
        """Take bm25s' engine, None where no text has a word, and the pairs' codes, ascending."""
        self._engine, self._pairs, self._num, self.settings = engine, pairs, num_texts, settings
        self._words: dict[str, int] = engine.vocab_dict if engine else {}
        self._analyse = Analyser(settings.language)

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        settings: LexicalSettings,
        terms: Terms | None = None,
        asked: "Mapping[int, Sequence[NDArray[np.uint64]]] | None" = None,
    ) -> Self:
        """Index texts; where no text has a word, every score is 0.

        Args:
            terms: learnt weights of words and pairs.
            asked: by the number of a text, the codes of the words of questions that it answers (app.retrieval.learnt).
        """
        import bm25s

        analyse, words = Analyser(settings.language), dict[str, int]()
        coded = [[words.setdefault(word, len(words)) for word in analyse(text)] for text in texts]
        if not words:
            return cls(None, num_texts=len(coded), settings=settings)
        more = _known(asked or {}, words)
        pairs = _add_pairs(coded, more, num_words=len(words)) if settings.pair_weight else None
        for number, given in more.items():
            coded[number] += [word for each in given for word in each.tolist() if word >= 0]
        engine = bm25s.BM25(method="lucene", k1=settings.k1, b=settings.b, backend="numpy")
        num_terms = len(words) + (0 if pairs is None else len(pairs))
        engine.scores = engine.build_index_from_ids(list(range(num_terms)), coded, show_progress=False)
        engine.scores["data"][engine.scores["indptr"][len(words)] :] *= settings.pair_weight
        engine.vocab_dict = words
        made = cls(engine, pairs=pairs, num_texts=len(coded), settings=settings)
        return made if terms is None or not len(terms.codes) else made._reweighed(terms)

    def _reweighed(self, terms: Terms) -> Self:
        import numpy as np

        scores = self._engine.scores
        scores["data"] *= np.repeat(terms.of(self.codes), np.diff(scores["indptr"]))
        return self

    @cached_property
    def codes(self) -> "NDArray[np.uint64]":
        """The code of every term, words before pairs (app.retrieval.learnt)."""
        import numpy as np

        words = codes_of(sorted(self._words, key=self._words.__getitem__))
        if self._pairs is None:
            return words
        pairs = np.asarray(self._pairs)
        return np.concatenate([words, codes_of_pairs(words[pairs // MOST_WORDS], words[pairs % MOST_WORDS])])

    def shares(self, question: str, rows: "NDArray[np.int64]") -> "tuple[NDArray[np.uint64], NDArray[np.float32]]":
        """The codes of a question's terms (t,), and what each adds to the scores of some texts (t, n).

        Args:
            rows: of the texts (n,), no one twice.
        """
        import numpy as np

        terms = self._terms(question)
        added = np.zeros((len(terms), len(rows)), dtype=np.float32)
        for place, term in enumerate(terms.tolist()):
            start, stop = self._engine.scores["indptr"][term : term + 2].tolist()
            held = self._engine.scores["indices"][start:stop]
            _, ours, theirs = np.intersect1d(rows, held, assume_unique=True, return_indices=True)
            added[place, ours] = self._engine.scores["data"][start:stop][theirs]
        return self.codes[terms] if len(terms) else np.zeros(0, dtype=np.uint64), added

    def write(self, folder: Path) -> None:
        """Write to a new folder."""
        import numpy as np

        folder.mkdir()
        about = {"num_texts": self._num, "empty": self._engine is None, **self.settings.model_dump(mode="json")}
        (folder / WORDS_FILE).write_text(json.dumps(about))
        if self._engine:
            self._engine.save(folder, show_progress=False)
        if self._pairs is not None:
            np.save(folder / PAIRS_FILE, self._pairs)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map what ``write`` wrote.

        Raises:
            OSError, ValueError, KeyError: it is missing or damaged.
        """
        import bm25s
        import numpy as np

        about = json.loads((folder / WORDS_FILE).read_text())
        num, empty = about.pop("num_texts"), about.pop("empty")
        settings = LexicalSettings(**BEFORE_PAIRS | about)
        engine = None if empty else bm25s.BM25.load(folder, mmap=True, show_progress=False)
        paired = engine and settings.pair_weight
        pairs = np.load(folder / PAIRS_FILE, mmap_mode="r") if paired else None
        return cls(engine, pairs=pairs, num_texts=num, settings=settings)

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
        return Lexical(engine, pairs=self._pairs, num_texts=stop - start, settings=self.settings)

    def __len__(self) -> int:
        return self._num

    def scores(self, question: str) -> "NDArray[np.float32]":
        """The BM25 score of every text, float32 (n,); 0 for texts that share no word with the question."""
        import numpy as np

        terms = self._terms(question)
        if not len(terms):
            return np.zeros(self._num, dtype=np.float32)
        found: NDArray[np.float32] = self._engine.get_scores_from_ids(terms)
        return found

    def _terms(self, question: str) -> "NDArray[np.int64]":
        """Numbers of the words of a question that are known, and of its pairs."""
        import numpy as np

        asked = np.array([self._words.get(word, -1) for word in self._analyse(question)], dtype=np.int64)
        words = asked[asked >= 0]
        if self._pairs is None or not len(self._pairs):
            return words
        codes = _codes_known(asked)
        places = np.searchsorted(self._pairs, codes)
        places[places == len(self._pairs)] = 0
        return np.concatenate([words, len(self._words) + places[self._pairs[places] == codes]])


def _known(
    asked: "Mapping[int, Sequence[NDArray[np.uint64]]]", words: Mapping[str, int]
) -> "dict[int, list[NDArray[np.int64]]]":
    """The numbers of words by their codes, -1 for those that no text has."""
    import numpy as np

    numbers = dict(zip(codes_of(words).tolist(), words.values(), strict=True)) if asked else {}
    return {
        number: [np.array([numbers.get(code, -1) for code in each.tolist()], dtype=np.int64) for each in given]
        for number, given in asked.items()
    }


def _add_pairs(
    coded: list[list[int]], more: "Mapping[int, Sequence[NDArray[np.int64]]]", *, num_words: int
) -> "NDArray[np.int64]":
    """Append to each text's words the numbers of its pairs, and of those of ``more``, which is words apart from it; the
    codes of all pairs, ascending, come back."""
    import numpy as np

    each = [_codes(np.array(terms, dtype=np.int64)) for terms in coded]
    for number, given in more.items():
        each[number] = np.concatenate([each[number], *map(_codes_known, given)])
    pairs, numbers = np.unique(np.concatenate(each), return_inverse=True)
    ends = np.cumsum([len(codes) for codes in each])
    for terms, part in zip(coded, np.split(numbers + num_words, ends[:-1]), strict=True):
        terms.extend(part.tolist())
    return pairs


def _codes(words: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """A number for every pair of neighbours, by the numbers of both."""
    codes: NDArray[np.int64] = words[:-1] * MOST_WORDS + words[1:]
    return codes


def _codes_known(words: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Of the pairs of which both words are known, not -1."""
    known: NDArray[np.int64] = _codes(words)[(words[:-1] >= 0) & (words[1:] >= 0)]
    return known


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
