"""Sections to chunks, along the structure of the text. Pure.

Guarantees: a chunk never spans two sections; every word of a section is in at least one of its chunks, in order; a
table row is never cut, and every part of a table that had to be cut begins with the table's header; text is cut between
paragraphs, else between list items or sentences, else between words. Not guaranteed: a table row or a word longer than
the limit is a chunk of its own that exceeds it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from app.documents.sections import Section
from app.documents.settings import ChunkSettings
from app.inference.blocks import is_table, split_blocks, split_sentences

TokenCounter = Callable[[str], int]


@dataclass(frozen=True)
class Chunk:
    """A piece of a section. ``ordinal`` counts a document's chunks from 0."""

    heading_path: tuple[str, ...]
    ordinal: int
    text: str


@dataclass(frozen=True)
class Unit:
    """What is not cut: a sentence, a list item or a table row, with what stands between it and the unit before.

    ``header`` is a table's header, to be written before the first of its rows in a chunk; ``movable`` units may be
    repeated at the start of the next chunk.
    """

    text: str
    joint: str
    size: int
    header: str = ""
    header_size: int = 0
    movable: bool = True


def chunk_sections(
    sections: Iterable[Section], *, settings: ChunkSettings, count_tokens: TokenCounter
) -> Iterator[Chunk]:
    """Cut a document's sections into chunks of at most ``max_tokens`` tokens.

    Args:
        sections: in reading order.
        count_tokens: maps a text to its length in encoder tokens.
    """
    ordinal = 0
    for section in sections:
        units = split_units(section.text, limit=settings.max_tokens, count_tokens=count_tokens)
        for is_rows, run in groupby(units, key=lambda unit: bool(unit.header)):
            limit = settings.max_table_tokens if is_rows else settings.max_tokens
            for text in pack(run, limit=limit, overlap=settings.overlap_tokens):
                yield Chunk(section.heading_path, ordinal, text)
                ordinal += 1


def split_units(text: str, *, limit: int, count_tokens: TokenCounter) -> Iterator[Unit]:
    """The units of a section's text."""
    for block in split_blocks(text):
        if is_table(block):
            yield from _table_units(block, count_tokens=count_tokens)
        else:
            yield from _text_units(block, limit=limit, count_tokens=count_tokens)


def pack(units: Iterable[Unit], *, limit: int, overlap: int = 0) -> Iterator[str]:
    """Join units to texts of at most ``limit`` tokens; each begins with up to ``overlap`` tokens of the one before."""
    held: list[Unit] = []
    fresh = 0
    for unit in units:
        if fresh and _size([*held, unit]) > limit:
            yield _compose(held)
            held, fresh = _tail(held, limit=min(overlap, limit - unit.size - unit.header_size)), 0
        held, fresh = [*held, unit], fresh + 1
    if fresh:
        yield _compose(held)


def _table_units(block: str, *, count_tokens: TokenCounter) -> Iterator[Unit]:
    lines = block.split("\n")
    header = "\n".join(lines[:2])
    size = count_tokens(header)
    if len(lines) == 2:
        yield Unit(header, "\n\n", size, movable=False)
    for row in lines[2:]:
        yield Unit(row, "\n", count_tokens(row), header=header, header_size=size, movable=False)


def _text_units(block: str, *, limit: int, count_tokens: TokenCounter) -> Iterator[Unit]:
    for text, joint in _pieces(block, "\n\n", fits=lambda part: count_tokens(part) <= limit):
        yield Unit(text, joint, count_tokens(text))


def _pieces(text: str, joint: str, *, fits: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """A text whole where it fits, else cut; with each piece, what stood between it and the piece before."""
    parts, inner = ([text], "") if fits(text) else _cut(text)
    if len(parts) == 1:
        yield text, joint
        return
    for number, part in enumerate(parts):
        yield from _pieces(part, inner if number else joint, fits=fits)


def _cut(text: str) -> tuple[list[str], str]:
    """The largest parts of a text and what joins them: its lines, else its sentences, else two halves of its words."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1:
        return lines, "\n"
    sentences, words = split_sentences(text), text.split()
    if len(sentences) > 1 or len(words) < 2:
        return sentences, " "
    half = len(words) // 2
    return [" ".join(words[:half]), " ".join(words[half:])], " "


def _size(units: Iterable[Unit]) -> int:
    total, header = 0, ""
    for unit in units:
        total += unit.size + (unit.header_size if unit.header and unit.header != header else 0)
        header = unit.header
    return total


def _compose(units: Iterable[Unit]) -> str:
    text, header = "", ""
    for unit in units:
        new_table = bool(unit.header) and unit.header != header
        joint = "\n\n" if new_table or (header and not unit.header) else unit.joint
        piece = f"{unit.header}\n{unit.text}" if new_table else unit.text
        text = f"{text}{joint}{piece}" if text else piece
        header = unit.header
    return text


def _tail(units: list[Unit], *, limit: int) -> list[Unit]:
    """The last movable units that fit in ``limit`` tokens; never all of them."""
    taken: list[Unit] = []
    for unit in reversed(units[1:]):
        if not unit.movable or _size([unit, *taken]) > limit:
            break
        taken.insert(0, unit)
    return taken
