"""Answers given before, given again: to the same request (exact), or to a question that means the same (semantic).

Opt-in by request (header ``x-signalbox-cache`` or field ``cache``: ``exact``, ``semantic``, ``off``) or by the key's
rule. An entry belongs to one release and its standing (what a stop or a void guarantee leaves of it), one set of access
labels, one state of the index (an erasure empties it), and one request but for its question; no other request meets it.
Guarantees: at most ``max_bytes`` of answers in a replica, each for ``ttl_s``; a semantic hit has the same numbers in
its question. Not guaranteed: that two questions which the index's encoder puts that close mean the same; whoever asks
for the semantic cache says that this is good enough.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache

from app.core.digests import digest_bytes
from app.ledger.receipts import canonical_text
from app.serving.cascade import Answer
from app.serving.responses import AnyResponse

UNRELATED = frozenset({"stream", "stream_options", "user", "metadata", "cache", "drop_params", "messages", "prompt"})
"""Fields of a request that its answer does not depend on, or that stand in the key otherwise."""
NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Entry:
    """An answer to be given again: the response, and what the request log says of it."""

    response: AnyResponse
    given: Sequence[Answer]
    num_bytes: int
    vector: Any = None
    """Of the question, where the semantic cache was asked for."""


@dataclass(frozen=True)
class Place:
    """Where a request's answer would be: everything that must be the same, and the question."""

    apart: str
    """Digest of release, standing, labels, index, and the request without its question."""

    question: str

    @classmethod
    def of(
        cls,
        body: Mapping[str, Any],
        question: str,
        *,
        kind: str,
        release: str,
        standing: str,
        labels: frozenset[str],
        erased: str,
    ) -> "Place":
        """The place of a request.

        Args:
            body: as it was sent; earlier turns count, as they stand before the question.
            standing: why not all of the release may answer as it was promoted to; empty while all of it may.
            erased: mark of the index's last erasure.
        """
        turns = list(body.get("messages") or ())
        last = max((place for place, turn in enumerate(turns) if turn.get("role") == "user"), default=-1)
        if last >= 0:  # who asks is part of what is asked
            turns[last] = {name: value for name, value in turns[last].items() if name != "content"}
        rest = {name: value for name, value in body.items() if name not in UNRELATED}
        whole = {"kind": kind, "release": release, "standing": standing, "labels": sorted(labels), "erased": erased}
        return cls(digest_bytes(canonical_text({**whole, "turns": turns, "rest": rest}).encode()), question)

    @property
    def key(self) -> tuple[str, str]:
        """For an exact hit."""
        return self.apart, self.question


class AnswerCache:
    """The answers that one replica keeps."""

    def __init__(
        self, *, max_bytes: int, ttl_s: float, similarity: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries: TTLCache[tuple[str, str], Entry] = TTLCache(
            max_bytes, ttl_s, timer=timer, getsizeof=lambda entry: entry.num_bytes
        )
        self._similarity = similarity

    def exact(self, place: Place) -> Entry | None:
        """The answer to the same request."""
        return self._entries.get(place.key)

    def nearest(self, place: Place, vector: Any) -> Entry | None:
        """The answer to the nearest question that is near enough and holds the same numbers.

        Args:
            vector: of the question, unit length.
        """
        alike = [key for key in self._entries if key[0] == place.apart and _numbers(key[1]) == _numbers(place.question)]
        found = [entry for key in alike if (entry := self._entries.get(key)) and entry.vector is not None]
        ranked = [(float(entry.vector @ vector), place) for place, entry in enumerate(found)]
        similarity, best = max(ranked, default=(-1.0, -1))
        return found[best] if similarity >= self._similarity else None

    def put(self, place: Place, entry: Entry) -> None:
        """Keep an answer; one that is larger than the whole cache is not kept."""
        with suppress(ValueError):  # cachetools' word for "too large"
            self._entries[place.key] = entry

    def __len__(self) -> int:
        return len(self._entries)


def _numbers(question: str) -> list[str]:
    return sorted(NUMBERS.findall(question))
