"""What one row is like, whatever the others are: language, length, broken text, personal data, overlap with suites.

Guarantees: pure Python, the same for a row in any batch but for vectors, whose last bits may differ; what is found
repeats no personal data. An ``Examiner`` is made once in each process, for it loads recognisers.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from app.core.language import language_of
from app.core.overlap import Overlap
from app.core.personal import Hit
from app.core.resemblance import shingle_hashes, signature
from app.core.text import broken_characters, words
from app.datasets.messages import without_context
from app.datasets.schema import ASKING, NAMES, QA, TEXTS, identity_of
from app.datasets.settings import QualitySettings

if TYPE_CHECKING:
    from app.datasets.personal import PersonalFinder

LANGUAGE_CHARS = 500
"""A language is told by so much of a text."""
MISREAD_CHARS = 12
_BEYOND_ASCII = re.compile(rf"(?:[^\x00-\x7f][\x00-\x7f]{{0,{MISREAD_CHARS}}})+")

Row = dict[str, Any]
Suites = Mapping[str, Sequence[Mapping[str, Any]]]


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """All that a row says, in order."""
    turns = [turn["content"] for turn in row["history"] or []]
    said = [*turns, *(row[name] for name in ("question", "answer", "rejected", "text") if row.get(name))]
    return said or [" ".join(map(str, row["input_ids"] or []))]


def whole_text(row: Mapping[str, Any]) -> str:
    """All that a row says, in one text."""
    return "\n".join(texts_of(row))


def own_text(row: Mapping[str, Any]) -> str:
    """All that a row says but for the context of its question, which many rows may share."""
    if not row["context"] or not row["question"]:
        return whole_text(row)
    question = min((without_context(row, first=first)[0] for first in (True, False)), key=len)
    return whole_text({**row, "question": question})


def asked(row: Mapping[str, Any]) -> str:
    """A digest of the words that a row asks, the turns before included; empty where it asks nothing."""
    if row["form"] != QA:
        return ""
    return digest_of_words([*(turn["content"] for turn in row["history"] or []), row["question"]])


def digest_of_words(texts: Sequence[str]) -> str:
    """The same for texts of the same words, whatever their marks and letter case."""
    said = "\x00".join(" ".join(words(text)) for text in texts)
    return blake2b(said.encode(), digest_size=16).hexdigest()


def looks_misread(text: str) -> bool:
    """Whether ftfy sees letters as of text that was decoded wrongly; it needs letters beyond ASCII for that.

    Its pattern is looked for around these alone: it spans fewer characters than ``MISREAD_CHARS``.
    """
    from ftfy.badness import BADNESS_RE

    spans = (match.span() for match in _BEYOND_ASCII.finditer(text))
    return any(BADNESS_RE.search(text, max(0, start - MISREAD_CHARS), end) for start, end in spans)


class Examiner:
    """Looks at rows one by one."""

    def __init__(self, settings: QualitySettings, suites: Suites) -> None:
        """Load what the settings ask for.

        Args:
            suites: rows of the suites that rows must not share questions with, by reference.
        """
        self._settings = settings
        self._overlaps = {ref: Overlap(rows, n=settings.contamination_words) for ref, rows in suites.items()}
        self._closeness = _Closeness(suites) if suites and settings.embedding != "skip" else None
        self._finder = _finder(settings)

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """For each row: ``findings`` (name and detail), ``language``, ``num_chars`` and ``masked`` fields.

        Beside these ``signature``, ``runs`` and ``own_runs``, by which rows are compared (app.core.resemblance), and
        ``asked`` and ``said``, digests of the words of question and answer.
        """
        close = self._closeness(rows) if self._closeness else [None] * len(rows)
        return [self._examine(row, near) for row, near in zip(rows, close, strict=True)]

    def _examine(self, row: Row, close: tuple[float, str] | None) -> dict[str, Any]:
        text = whole_text(row)
        hits = {name: found for name, value in _fields(row) if (found := self._find(name, value))}
        findings = [*self._broken(text), *self._shared(row), *self._close(close)]
        if hits:
            counts = Counter(hit.kind for found in hits.values() for hit in found)
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
            findings.append({"finding": "personal", "detail": kinds})
        sample = text[:LANGUAGE_CHARS]
        return {
            **self._compared(row, text),
            "findings": findings,
            "language": language_of(sample, min_letters=self._settings.min_language_letters),
            "num_chars": len(text),
            "masked": self._masked(row, hits) if self._settings.personal == "mask" else {},
        }

    def _compared(self, row: Row, text: str) -> dict[str, Any]:
        runs, own = shingle_hashes(text, self._settings.shingle_words), own_text(row)
        own_runs = runs if own == text else shingle_hashes(own, self._settings.shingle_words)
        compared = {"signature": signature(runs), "runs": runs, "own_runs": own_runs}
        return compared | {"asked": asked(row), "said": digest_of_words([row["answer"] or ""])}

    def _find(self, name: str, text: str) -> list[Hit]:
        if self._finder is None:
            return []
        return self._finder.find_in_name(text) if name in NAMES else self._finder.find(text)

    def _masked(self, row: Row, hits: Mapping[str, list[Hit]]) -> dict[str, str]:
        """New texts of fields that held personal data; turns are named by their number."""
        values = dict(_fields(row))
        return {name: self._finder.mask(values[name], found) for name, found in hits.items()} if self._finder else {}

    def _broken(self, text: str) -> Iterator[dict[str, str]]:
        if broken := broken_characters(text):
            kinds = ", ".join(sorted({f"U+{ord(letter):04X}" for letter in broken}))
            yield {"finding": "encoding", "detail": f"{len(broken)} broken characters ({kinds})"}
        elif looks_misread(text):
            yield {"finding": "encoding", "detail": "letters as of text that was decoded wrongly"}

    def _shared(self, row: Row) -> Iterator[dict[str, str]]:
        for ref, overlap in self._overlaps.items():
            shared = overlap.shared_with(row) if row["form"] in ASKING else overlap.shared_with_text(row["text"] or "")
            if shared:
                yield {"finding": "contamination", "detail": f"shares a {shared} with suite {ref}"}

    def _close(self, close: tuple[float, str] | None) -> Iterator[dict[str, str]]:
        if close and close[0] >= self._settings.embedding_similarity:
            yield {"finding": "embedding", "detail": f"is as close as {close[0]:.2f} to a question of suite {close[1]}"}


def masked_row(row: Row, masked: Mapping[str, str]) -> Row:
    """The row with masked texts in their places, and a new id where there are any."""
    if not masked:
        return row
    turns = [
        {**turn, "content": masked.get(f"history.{place}", turn["content"])}
        for place, turn in enumerate(row["history"] or [])
    ]
    new = {**row, **{name: text for name, text in masked.items() if name in row}, "history": turns}
    new["answers"] = [new["answer"] if each == row["answer"] else each for each in row["answers"] or []]
    return {**new, "row_id": identity_of(new)}


def _fields(row: Row) -> Iterator[tuple[str, str]]:
    """Every text of a row by the name of its field, what says where it comes from included."""
    yield from ((name, row[name]) for name in (*TEXTS, *NAMES) if row.get(name))
    yield from ((f"history.{place}", turn["content"]) for place, turn in enumerate(row["history"] or []))


def _finder(settings: QualitySettings) -> "PersonalFinder | None":
    from app.datasets.personal import PersonalFinder

    if settings.personal == "skip":
        return None
    return PersonalFinder(kinds=settings.personal_kinds, score=settings.personal_score)


class _Closeness:
    """Cosine of each row's question to the nearest question of the suites."""

    def __init__(self, suites: Suites) -> None:
        from app.inference.encoder import Encoder

        self._encoder = Encoder()
        self._refs = [ref for ref, rows in suites.items() for _ in rows]
        self._vectors = self._encoder.encode([str(row["question"]) for rows in suites.values() for row in rows])

    def __call__(self, rows: Sequence[Row]) -> list[tuple[float, str] | None]:
        asked = [place for place, row in enumerate(rows) if row["form"] in ASKING]
        found: list[tuple[float, str] | None] = [None] * len(rows)
        if asked and self._refs:
            cosines = self._encoder.encode([rows[place]["question"] for place in asked]) @ self._vectors.T
            for place, line in zip(asked, cosines, strict=True):
                nearest = int(line.argmax())
                found[place] = (float(line[nearest]), self._refs[nearest])
        return found
