"""What BM25 learns from questions whose chunks are known: a weight for each term, and words that chunks are asked by.

The words of a question are counted as if they stood in the chunks that answer it (document expansion by queries:
Nogueira et al., Document Expansion by Query Prediction, 2019, here with questions that were asked). Weights of terms:
app.retrieval.terms. A search costs the same: both go into the postings when an index is built.

Guarantees: equal content gives equal bytes; the file holds numbers for words and chunks (BLAKE2b), and BM25 takes from
it only words that stand in some chunk, so that an erasure leaves the file as it is. Not guaranteed: that a word that is
guessed cannot be looked up in it. A chunk that changes has another id, and loses its questions.
"""

import hashlib
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.core.digests import digest_file
from app.core.errors import SignalboxError
from app.registry.tables import LEARNT_FILE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST, SECOND = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
"""Odd numbers that a pair's two words are mixed by."""


class LearntBroken(SignalboxError):
    """A file of learnt words is damaged: tune the retriever again, or build the index again."""


@dataclass(frozen=True)
class Terms:
    """Codes of terms (n,), ascending, and the factor of each (n,), above 0; every other term has 1."""

    codes: "NDArray[np.uint64]"
    weights: "NDArray[np.float32]"

    @classmethod
    def none(cls) -> Self:
        """No weights."""
        import numpy as np

        return cls(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.float32))

    def of(self, codes: "NDArray[np.uint64]") -> "NDArray[np.float32]":
        """The factor of each of these terms."""
        import numpy as np

        if not len(self.codes):
            return np.ones(len(codes), dtype=np.float32)
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[places] == codes, self.weights[places], np.float32(1))


@dataclass(frozen=True)
class Asked:
    """Questions by the code of a chunk that answers (n,): where the words of each end (n,), and their codes (m,)."""

    chunks: "NDArray[np.uint64]"
    ends: "NDArray[np.int64]"
    words: "NDArray[np.uint64]"

    @classmethod
    def of(
        cls,
        questions: Sequence[str],
        gold: Sequence[Collection[int]],
        chunk_ids: Sequence[str],
        analyse: Callable[[str], list[str]],
    ) -> Self:
        """Questions with the rows that answer each; none of either is a file without questions."""
        import numpy as np

        pairs = [
            (chunk_ids[row], analyse(each)) for each, rows in zip(questions, gold, strict=True) for row in sorted(rows)
        ]
        ends = np.cumsum([len(words) for _, words in pairs], dtype=np.int64)
        return cls(codes_of(name for name, _ in pairs), ends, codes_of(word for _, words in pairs for word in words))

    def by_row(self, chunk_ids: Iterable[str]) -> "dict[int, list[NDArray[np.uint64]]]":
        """The words of the questions of each row that has some."""
        import numpy as np

        if not len(self.chunks):
            return {}
        rows = {code: row for row, code in enumerate(codes_of(chunk_ids).tolist())}
        found: dict[int, list[NDArray[np.uint64]]] = {}
        for chunk, words in zip(self.chunks.tolist(), np.split(self.words, self.ends[:-1]), strict=True):
            if chunk in rows:
                found.setdefault(rows[chunk], []).append(words)
        return found


@dataclass(frozen=True)
class Learnt:
    """Weights of terms, and questions by chunk."""

    terms: Terms
    asked: Asked

    def write(self, folder: Path) -> str:
        """Write to a retriever's or an index's folder; the file's digest comes back."""
        import numpy as np

        terms, asked = self.terms, self.asked
        np.savez(
            folder / LEARNT_FILE,
            codes=terms.codes, weights=terms.weights, chunks=asked.chunks, ends=asked.ends, words=asked.words,
        )  # fmt: skip
        return digest_file(folder / LEARNT_FILE)

    @classmethod
    def of_folder(cls, folder: Path) -> Self | None:
        """What ``write`` wrote there; None where there is no such file.

        Raises:
            LearntBroken: the file is damaged.
        """
        import numpy as np

        path = folder / LEARNT_FILE
        if not path.is_file():
            return None
        try:
            with np.load(path) as held:
                terms = Terms(held["codes"], held["weights"])
                asked = Asked(held["chunks"], held["ends"], held["words"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise LearntBroken(f"{path} cannot be read: tune the retriever again, or build the index again") from error
        whole = len(terms.codes) == len(terms.weights) and len(asked.chunks) == len(asked.ends)
        if not whole or not (terms.codes[:-1] < terms.codes[1:]).all() or not (terms.weights > 0).all():
            raise LearntBroken(f"{path} does not hold together: tune the retriever again, or build the index again")
        return cls(terms, asked)


def codes_of(words: Iterable[str]) -> "NDArray[np.uint64]":
    """A number for every word, or id."""
    import numpy as np

    digests = (hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def codes_of_pairs(first: "NDArray[np.uint64]", second: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """A number for every pair of words, by the numbers of both; the order counts."""
    import numpy as np

    return first * np.uint64(FIRST) + second * np.uint64(SECOND)
