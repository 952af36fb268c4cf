"""The extractive reader: quotes the sentences that answer a question, with citations. No language model.

How: passages are cut into statements (sentences, list items, table cells with their row and column). Each is scored by
the encoder's cosine with the question and by the share of the question's words that it holds, words weighted by their
rarity among the statements. The best one or two are quoted.

Guarantees: every quote stands in its passage word for word; what is added (the subject before a dash) is the passage's
own title, row or column; under ``THRESHOLD`` there is no quote and no citation. Not guaranteed: that the best statement
answers the question; ``confidence`` says how well it fits, from 0 to 1, and is no probability until it is calibrated.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from app.inference.blocks import LIST_MARK, is_table, split_blocks, split_sentences, table_cells

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOTHING_FOUND = "I could not find this in the documents."
THRESHOLD = 0.55
SECOND_MARGIN = 0.03
MAX_ENCODED = 16
MAX_CELLS = 400
WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")
UNIT = re.compile(r"^(.+?) \(([^()]{1,20})\)$")
POINTS_BACK = re.compile(r"^(its?|they|their|this|these|that|those|he|she|his|her|such|the same)\b", re.IGNORECASE)
STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "again",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "get",
        "give",
        "had",
        "has",
        "have",
        "help",
        "her",
        "here",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "know",
        "like",
        "listed",
        "many",
        "may",
        "me",
        "much",
        "must",
        "my",
        "need",
        "no",
        "not",
        "now",
        "of",
        "on",
        "one",
        "or",
        "our",
        "out",
        "over",
        "please",
        "quote",
        "remind",
        "say",
        "should",
        "so",
        "some",
        "state",
        "stated",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "told",
        "under",
        "up",
        "us",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)


class Passage(Protocol):
    """What the reader reads: a search hit, or anything with these attributes."""

    @property
    def chunk_id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def heading_path(self) -> Sequence[str]: ...
    @property
    def text(self) -> str: ...


class TextEncoder(Protocol):
    """What the reader needs of an encoder."""

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> "NDArray[np.float32]": ...


@dataclass(frozen=True)
class Citation:
    """Where a quote stands."""

    chunk_id: str
    source: str
    heading_path: tuple[str, ...]
    quote: str

    def to_json(self) -> dict[str, Any]:
        """The citation as a JSON object."""
        return asdict(self) | {"heading_path": list(self.heading_path)}


@dataclass(frozen=True)
class Extract:
    """An answer in the documents' own words."""

    text: str
    confidence: float
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True)
class Statement:
    """One thing that a passage says: the quote, how it reads alone, and what it is about (headings, a row's name)."""

    passage: Passage
    quote: str
    text: str
    about: str


def read_extract(
    question: str, passages: Sequence[Passage], encoder: TextEncoder, *, max_sentences: int = 2
) -> Extract:
    """Quote the best statements of the passages, best first.

    Args:
        passages: search hits, best first.
        max_sentences: at most so many statements; a second is quoted only when it fits about as well as the first.
    """
    statements = [statement for passage in passages for statement in statements_of(passage)]
    scored = score(question, statements, encoder)
    if not scored or scored[0][0] < THRESHOLD:
        return Extract(NOTHING_FOUND, round(scored[0][0], 4) if scored else 0.0)
    chosen = _choose(scored, num=max_sentences)
    citations = tuple(
        Citation(item.passage.chunk_id, item.passage.source, tuple(item.passage.heading_path), item.quote)
        for item in chosen
    )
    return Extract(" ".join(_ended(item.text) for item in chosen), round(scored[0][0], 4), citations)


def statements_of(passage: Passage) -> Iterator[Statement]:
    """What a passage says, statement by statement, each of which makes sense alone."""
    subject = passage.heading_path[0] if passage.heading_path else ""
    headings = " ".join(passage.heading_path)
    for block in split_blocks(passage.text):
        if is_table(block):
            for quote, name, text in _table_statements(block, subject):
                yield Statement(passage, quote, text, f"{headings} {name}")
            continue
        for line in block.split("\n"):
            for sentence in split_sentences(LIST_MARK.sub("", line)):
                text = _with_subject(sentence, subject, listed=LIST_MARK.match(line) is not None)
                yield Statement(passage, sentence, text, headings)


def score(question: str, statements: Sequence[Statement], encoder: TextEncoder) -> list[tuple[float, Statement]]:
    """Statements with their confidence, best first; only the ``MAX_ENCODED`` nearest in words are encoded."""
    wanted = content_words(question)
    said = [content_words(statement.text) for statement in statements]
    about = [content_words(statement.about) for statement in statements]
    weights = _rarity(wanted, [one | other for one, other in zip(said, about, strict=True)])
    shared = [_shares(wanted, one, other, weights) for one, other in zip(said, about, strict=True)]
    order = sorted(range(len(statements)), key=lambda place: -sum(shared[place]))[:MAX_ENCODED]
    if not order:
        return []
    vectors = encoder.encode([question, *(statements[place].text for place in order)])
    cosines = vectors[1:] @ vectors[0]
    results = [
        (_confidence(float(cosine), *shared[place]), statements[place])
        for cosine, place in zip(cosines, order, strict=True)
    ]
    return sorted(results, key=lambda item: -item[0])


def content_words(text: str) -> frozenset[str]:
    """Words that carry meaning, lower case, without plural endings."""
    words = (word.lower() for word in WORD.findall(text))
    return frozenset(_stem(word) for word in words if word not in STOP_WORDS and (len(word) > 1 or word.isdigit()))


def _stem(word: str) -> str:
    for ending in ("ies", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word.removesuffix(ending) + ("y" if ending == "ies" else "")
    return word


def _rarity(wanted: frozenset[str], held: Sequence[frozenset[str]]) -> dict[str, float]:
    """How much each word of the question tells: rare among the statements tells more, in none of them tells half."""
    counts = Counter(word for words in held for word in words & wanted)
    known = {word: math.log(1 + len(held) / counts[word]) for word in wanted if counts[word]}
    typical = sum(known.values()) / len(known) if known else 1.0
    return {word: known.get(word, 0.5 * typical) for word in wanted}


def _shares(
    wanted: frozenset[str], said: frozenset[str], about: frozenset[str], weights: dict[str, float]
) -> tuple[float, float]:
    """The share of the question's words that a statement or its headings hold, and that of the words beyond these."""
    return _share(wanted, said | about, weights), _share(wanted - about, said, weights)


def _share(wanted: frozenset[str], words: frozenset[str], weights: dict[str, float]) -> float:
    total = sum(weights[word] for word in wanted)
    return sum(weights[word] for word in wanted & words) / total if total else 0.0


def _confidence(cosine: float, shared: float, beyond: float) -> float:
    return min(1.0, max(0.0, 0.4 * cosine + 0.3 * shared + 0.3 * beyond))


def _table_statements(block: str, subject: str) -> Iterator[tuple[str, str, str]]:
    """A row of two columns is a name and a value; a wider row gives one statement for each cell behind its first."""
    lines = block.split("\n")
    header = table_cells(lines[0])
    for line in lines[2 : 2 + MAX_CELLS // max(1, len(header))]:
        cells = table_cells(line)
        if len(header) == 2 and len(cells) == 2:
            yield line.strip(), subject, _labelled(subject, cells[0], cells[1])
        elif len(header) == 1:
            yield line.strip(), "", f"{header[0]}: {cells[0]}"
        else:
            for name, cell in list(zip(header, cells, strict=False))[1:]:
                if cell:
                    yield line.strip(), cells[0], _labelled(cells[0], name, cell)


def _labelled(subject: str, name: str, value: str) -> str:
    """A cell in words; a unit in the column's name, as in "fee (euros)", goes behind the number."""
    if (unit := UNIT.match(name)) and value[-1:].isdigit():
        name, value = unit[1], f"{value} {unit[2]}"
    label = name if name[1:2].isupper() else name[:1].lower() + name[1:]
    return f"{subject} — {label}: {value}" if subject else f"{name}: {value}"


def _with_subject(sentence: str, subject: str, *, listed: bool) -> str:
    """The sentence, behind its document's title where it would not make sense without."""
    lone = listed and sentence[-1:] not in ".!?"
    if subject and (lone or POINTS_BACK.match(sentence)) and subject.lower() not in sentence.lower():
        return f"{subject} — {sentence}"
    return sentence


def _choose(scored: Sequence[tuple[float, Statement]], *, num: int) -> list[Statement]:
    """The best statement, and those close behind it that say something else."""
    best = scored[0][0]
    chosen: list[Statement] = []
    for value, statement in scored:
        if len(chosen) == num or value < best - SECOND_MARGIN:
            break
        if not any(_alike(statement.text, other.text) for other in chosen):
            chosen.append(statement)
    return chosen


def _alike(one: str, other: str) -> bool:
    left, right = content_words(one), content_words(other)
    return len(left & right) > 0.6 * min(len(left), len(right))


def _ended(text: str) -> str:
    return text if text[-1:] in ".!?" else f"{text}."
