"""Near-duplicates among many texts: MinHash signatures find candidates, their true similarity decides.

Guarantees: pure and deterministic, on any machine; what is found has the similarity that was asked for, by the Jaccard
similarity of 64-bit hashes of runs of words. Time and memory grow with the number of texts, however many of them are
alike: equal texts are compared once, and no text is looked at beside more than ``MAX_CANDIDATES`` others.
Not guaranteed: that a pair is seen whose signatures are far from its similarity (one in some thousands), or that stands
in crowds of more candidates; `python -m benchmarks.datasets` counts what is missed.

Source: Broder, On the resemblance and containment of documents (1997); Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, chapter 3 (bands).
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from app.core.text import words

Hashes = NDArray[np.uint64]
Signatures = NDArray[np.uint32]

NUM_HASHES = 96
BAND_ROWS = (8, 6, 4, 3, 2, 1)
MISSED = 0.001
"""Share of the pairs at the threshold that the choice of bands may miss."""
MAX_CANDIDATES = 1024
SLACK = 0.15
"""How far a signature's estimate may be below the threshold: three and a half of its standard deviations."""
LAST_BITS = np.uint64((1 << 20) - 1)
BLOCK = 64
CHUNK = 4096
CACHED_CHARS = 40
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def near_duplicates(texts: Sequence[str], *, threshold: float, size: int = 3) -> list[tuple[int, int]]:
    """For every text that resembles an earlier one: its position, and that of the first it resembles."""
    sets = [shingle_hashes(text, size) for text in texts]
    signatures = np.array([signature(each) for each in sets], np.uint32).reshape(-1, NUM_HASHES)
    return resembling(signatures, sets, threshold=threshold)


def shingle_hashes(text: str, size: int) -> Hashes:
    """The hashes of a text's runs of ``size`` words, each once, in order; a shorter text is one run."""
    tokens = words(text)
    hashed = np.fromiter(map(_word_hash, tokens), np.uint64, len(tokens))
    length = min(size, len(tokens))
    runs = np.full(len(tokens) - length + 1, length, np.uint64)
    for place in range(length):
        runs = _mixed(runs * _MULTIPLIER + hashed[place : place + len(runs)])
    return np.unique(runs)


def signature(hashes: Hashes) -> Signatures:
    """The MinHash signature of a set, ``NUM_HASHES`` numbers: two sets agree in as many as they are alike."""
    scale, shift = _hash_family()
    least = np.full(NUM_HASHES, np.iinfo(np.uint32).max, np.uint32)
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    for start in range(0, len(short), CHUNK):
        least = np.minimum(least, (short[start : start + CHUNK, None] * scale + shift).min(axis=0))
    return least


def resembling(signatures: Signatures, *sets: Sequence[Hashes], threshold: float) -> list[tuple[int, int]]:
    """``(later, earlier)`` for every text that resembles an earlier one; of several the first.

    Args:
        signatures: of the texts as wholes, shape (texts, ``NUM_HASHES``).
        sets: the hashed runs of each text. Where more than one sequence is given, such as of whole texts and of parts,
            texts must be alike in each.
    """
    unlike, equal = _equal(sets)
    kept = [[each[place] for place in unlike] for each in sets]
    found = _Join(signatures[unlike], kept, threshold).find()
    first = {unlike[later]: unlike[earlier] for later, earlier in found}
    first |= {later: first.get(earlier, earlier) for later, earlier in equal}
    return sorted(first.items())


class _Join:
    """Texts beside the earlier ones that share a band of their signature."""

    def __init__(self, signatures: Signatures, sets: Sequence[Sequence[Hashes]], threshold: float) -> None:
        self._sets, self._threshold = sets, threshold
        self._sizes = np.array([len(each) for each in sets[0]], np.int64)
        self._short = signatures.astype(np.uint8)
        self._marks = np.zeros(int(LAST_BITS) + 1, bool)
        keys = _band_keys(signatures, threshold)
        self._orders = np.argsort(keys, axis=1, kind="stable")
        self._starts, self._places = _buckets(keys, self._orders)

    def find(self) -> list[tuple[int, int]]:
        """``(later, earlier)`` of each text that resembles an earlier one."""
        leaders = np.take_along_axis(self._orders, self._starts, axis=1).min(axis=0)
        crowded = np.flatnonzero(leaders < np.arange(len(leaders)))
        found = ((later, self._first(later, int(leaders[later]))) for later in crowded.tolist())
        return [(later, earlier) for later, earlier in found if earlier is not None]

    def _first(self, later: int, leader: int) -> int | None:
        """The first earlier text that this one resembles; the first of all that share a band is looked at first."""
        if self._alike(leader, later):
            return leader
        every = self._candidates(later)
        least = self._threshold * self._sizes[later]
        sizes = self._sizes[every]
        near = every[(sizes >= least) & (sizes * self._threshold <= self._sizes[later])]
        agree = np.count_nonzero(self._short[near] == self._short[later], axis=1)
        likely = near[agree >= NUM_HASHES * (self._threshold - SLACK)]
        blocks = (likely[start : start + BLOCK].tolist() for start in range(0, len(likely), BLOCK))
        promising = (earlier for block in blocks for earlier in self._promising(block, later))
        return next((earlier for earlier in promising if self._alike(earlier, later)), None)

    def _promising(self, block: list[int], later: int) -> list[int]:
        """Those whose similarity reaches the threshold by the last bits of their hashes, by which none is missed."""
        own, sizes = self._sets[0][later] & LAST_BITS, self._sizes[block]
        self._marks[own] = True
        hits = self._marks[np.concatenate([self._sets[0][place] for place in block]) & LAST_BITS]
        self._marks[own] = False
        shared = np.add.reduceat(hits, np.cumsum(sizes) - sizes, dtype=np.int64)
        enough = shared >= self._threshold / (1 + self._threshold) * (sizes + len(own)) - 1e-6
        return [place for place, each in zip(block, enough.tolist(), strict=True) if each]

    def _candidates(self, later: int) -> NDArray[np.int64]:
        """Earlier texts in the same buckets, those of the emptiest first when there are too many; in order."""
        starts, places = self._starts[:, later], self._places[:, later]
        chosen, room = [], MAX_CANDIDATES
        for band in np.argsort(places - starts, kind="stable").tolist():
            members = self._orders[band, starts[band] : places[band]][:room]
            chosen.append(members)
            room -= len(members)
        every = np.sort(np.concatenate(chosen))
        return every[np.flatnonzero(np.diff(every, prepend=-1))]

    def _alike(self, earlier: int, later: int) -> bool:
        return all(jaccard(each[earlier], each[later]) >= self._threshold for each in self._sets)


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared runs over all runs, 0 to 1, of two ordered sets."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def rows_of_band(threshold: float) -> int:
    """Numbers of a signature in a band: as many as leave a pair at the threshold unseen with a chance below MISSED."""
    return next(rows for rows in BAND_ROWS if rows == 1 or (1 - threshold**rows) ** (NUM_HASHES // rows) <= MISSED)


def _band_keys(signatures: Signatures, threshold: float) -> Hashes:
    """A key for each band and text, shape (bands, texts)."""
    rows = rows_of_band(threshold)
    bands = signatures.reshape(len(signatures), NUM_HASHES // rows, rows).astype(np.uint64)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for place in range(rows):
        keys = _mixed(keys * _MULTIPLIER + bands[:, :, place])
    return np.ascontiguousarray(keys.T)


def _buckets(keys: Hashes, orders: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in its band's order a text's bucket starts, and where the text stands; each of shape (bands, texts)."""
    starts, places = np.empty_like(orders), np.empty_like(orders)
    positions = np.arange(keys.shape[1])
    for band, order, start, place in zip(keys, orders, starts, places, strict=True):
        ordered = band[order]
        new = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
        start[order] = np.maximum.accumulate(np.where(new, positions, 0))
        place[order] = positions
    return starts, places


def _equal(sets: Sequence[Sequence[Hashes]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Texts that equal no earlier one, and ``(later, first)`` for each of the others."""
    first: dict[bytes, int] = {}
    unlike, equal = [], []
    for place, each in enumerate(zip(*sets, strict=True)):
        key = blake2b(b"".join(blake2b(part.tobytes()).digest() for part in each), digest_size=16).digest()
        earlier = first.setdefault(key, place)
        if earlier == place:
            unlike.append(place)
        else:
            equal.append((place, earlier))
    return unlike, equal


def _word_hash(word: str) -> int:
    return _cached_hash(word) if len(word) <= CACHED_CHARS else _hash(word)


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_cached_hash = lru_cache(1 << 17)(_hash)


def _mixed(numbers: Hashes) -> Hashes:
    """Every bit of a number spread over all others (Steele, Lea and Flood, Fast splittable generators, 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


@cache
def _hash_family() -> tuple[Signatures, Signatures]:
    scale, shift = np.random.default_rng(0).integers(0, 1 << 32, (2, NUM_HASHES), dtype=np.uint32)
    return scale | np.uint32(1), shift
