"""Texts as words: n-grams that two texts share, and near-duplicates among many.

Guarantees: pure and deterministic; texts are compared by letters and digits alone, in Unicode's compatibility form,
without letter case. Near-duplicates are found by MinHash and then counted by their true Jaccard similarity.
Not guaranteed: that MinHash finds every pair above the threshold; `python -m benchmarks.datasets` measures how many.
"""

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+")
_BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
PRIME = (1 << 31) - 1
NUM_HASHES, NUM_BANDS = 96, 24
"""24 bands of 4 hashes: a pair of similarity 0.8 is looked at with a chance of 0.99999, one of 0.4 with 0.46."""
MAX_BUCKET = 200
"""Rows of a fuller bucket are compared with its first rows only, so that a thousand copies cost no million pairs."""


def broken_characters(text: str) -> list[str]:
    """Control characters, unpaired surrogates and U+FFFD, which decoders put in the place of what they cannot read.

    Source: the Unicode Standard, sections 5.22 and 23.
    """
    return _BROKEN.findall(text)


def words(text: str) -> list[str]:
    """Runs of letters and digits, case-folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def ngrams(tokens: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """Every run of ``n`` words; none when there are fewer."""
    return {tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)}


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """Runs of ``size`` words; a shorter text is one run."""
    tokens = words(text)
    return ngrams(tokens, size) or {tuple(tokens)}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Shared shingles over all shingles, 0 to 1."""
    return len(a & b) / len(a | b) if a or b else 1.0


def near_duplicates(texts: Sequence[str], *, threshold: float, size: int = 3) -> list[tuple[int, int]]:
    """For every text that resembles an earlier one: its position, and that of the first it resembles.

    Source: Broder, On the resemblance and containment of documents (1997); Leskovec, Rajaraman and Ullman, Mining of
    Massive Datasets, chapter 3 (bands).
    """
    sets = [shingles(text, size) for text in texts]
    keys = np.array([band_keys(each) for each in sets], dtype=np.uint64).reshape(-1, NUM_BANDS)
    return first_resembled(candidate_pairs(keys), [set(map(hash, each)) for each in sets], threshold=threshold)


def first_resembled(
    pairs: Sequence[tuple[int, int]], *sets: Sequence[set[int]], threshold: float
) -> list[tuple[int, int]]:
    """Of sorted ``(earlier, later)`` candidates, ``(later, first earlier)`` for each later one that has one alike.

    Args:
        sets: the hashed shingles of each text; no set may be another process's, whose hashes differ. Where more than
            one sequence is given, such as of whole texts and of parts, texts must be alike in each.
    """
    first: dict[int, int] = {}
    for earlier, later in pairs:
        if later not in first and all(_alike(each[earlier], each[later], threshold) for each in sets):
            first[later] = earlier
    return sorted(first.items())


def _alike(a: set[int], b: set[int], threshold: float) -> bool:
    """Whether the Jaccard similarity reaches the threshold; sets of too different sizes need no look."""
    if min(len(a), len(b)) / max(len(a), len(b)) < threshold:
        return False
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) >= threshold


def band_keys(runs: set[tuple[str, ...]]) -> NDArray[np.uint64]:
    """MinHash of a set of shingles, a key for each band: two texts that share a key at a place are candidates."""
    scale, shift = _hash_family()
    hashes = np.array([zlib.crc32(" ".join(run).encode()) % PRIME for run in runs], dtype=np.int64)
    signature = ((hashes[:, None] * scale + shift) % PRIME).min(axis=0)
    bands = signature.reshape(NUM_BANDS, -1)
    return np.array([int.from_bytes(blake2b(band.tobytes(), digest_size=8).digest()) for band in bands], np.uint64)


def candidate_pairs(keys: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Sorted ``(earlier, later)`` rows of ``keys`` (texts, bands) that share a key in one of the bands."""
    found: set[tuple[int, int]] = set()
    for band in keys.T:
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for members in np.split(order, cuts):
            if len(members) > 1:
                found.update(_pairs_of(members.tolist()))
    return sorted(found)


def _pairs_of(members: list[int]) -> Iterator[tuple[int, int]]:
    if len(members) <= MAX_BUCKET:
        yield from combinations(members, 2)
    else:
        yield from ((earlier, later) for later in members for earlier in members[:3] if earlier < later)


@cache
def _hash_family() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    scale, shift = np.random.default_rng(0).integers(1, PRIME, (2, NUM_HASHES), dtype=np.int64)
    return scale, shift
