"""Sections to parents and chunks, along the structure of the text. Pure.

A parent is a section, or as many of its blocks as fit its bound; chunks are cut from parents, so that a small chunk is
found and the larger parent can be read. The document's text is its parents with a blank line between.

Guarantees: a chunk never spans two sections or parents; every word of a section is in at least one of its chunks, in
order; a chunk's text is exactly the characters of the document that it names, behind the header of its table where the
table had to be cut; a table row is never cut; text is cut between paragraphs, else between list items or sentences,
else between words. Not guaranteed: a table row or a word longer than the limit is a chunk of its own that exceeds it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from app.documents.sections import BREAK, Section
from app.documents.settings import ChunkSettings
from app.inference.blocks import is_table, split_sentences

TokenCounter = Callable[[str], int]
BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class Parent:
    """A piece of a section that chunks are cut from. ``ordinal`` counts a document's parents from 0."""

    heading_path: tuple[str, ...]
    ordinal: int
    text: str
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    chunks: "tuple[Chunk, ...]" = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of a parent. ``ordinal`` counts a document's chunks from 0; places are in the document's text."""

    heading_path: tuple[str, ...]
    ordinal: int
    text: str
    char_start: int
    char_end: int
    header_start: int | None
    header_end: int | None
    page_start: int | None
    page_end: int | None


@dataclass(frozen=True)
class Unit:
    """What is not cut: a sentence, a list item or a table row, by its characters in a section's text.

    ``header`` are those of its table's header, to be written before the first of its rows in a chunk; ``movable`` units
    may be repeated at the start of the next chunk.
    """

    start: int
    end: int
    size: int
    header: tuple[int, int] | None = None
    header_size: int = 0
    movable: bool = True


def cut_sections(
    sections: Iterable[Section], *, settings: ChunkSettings, count_tokens: TokenCounter
) -> Iterator[Parent]:
    """Cut a document's sections into parents, each with its chunks of at most ``max_tokens`` tokens.

    Args:
        sections: in reading order.
        count_tokens: maps a text to its length in encoder tokens.
    """
    place = ordinal = num_chunks = 0
    for section in sections:
        for start, end in parent_spans(section.text, limit=settings.parent_tokens, count_tokens=count_tokens):
            shift = place - start
            cuts = list(_cuts(section.text, start, end, settings=settings, count_tokens=count_tokens))
            chunks = tuple(_chunk(section, cut, shift, num_chunks + number) for number, cut in enumerate(cuts))
            pages = section.page_at(start), section.page_at(end - 1)
            yield Parent(
                section.heading_path, ordinal, section.text[start:end], place, place + end - start, *pages, chunks
            )
            place, ordinal, num_chunks = place + end - start + len(BREAK), ordinal + 1, num_chunks + len(chunks)


def chunk_sections(
    sections: Iterable[Section], *, settings: ChunkSettings, count_tokens: TokenCounter
) -> Iterator[Chunk]:
    """The chunks of all parents, in order."""
    for parent in cut_sections(sections, settings=settings, count_tokens=count_tokens):
        yield from parent.chunks


def block_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The blocks between blank lines, none of them empty."""
    place = start
    for gap in BLANK_LINES.finditer(text, start, end):
        yield from _filled(text, place, gap.start())
        place = gap.end()
    yield from _filled(text, place, end)


def num_tables(text: str) -> int:
    """How many tables a text holds."""
    return sum(is_table(text[start:end]) for start, end in block_spans(text, 0, len(text)))


def parent_spans(text: str, *, limit: int, count_tokens: TokenCounter) -> Iterator[tuple[int, int]]:
    """The parents of a section: runs of blocks of at most ``limit`` tokens, a longer block alone."""
    spans = list(block_spans(text, 0, len(text)))
    if not spans or len(text) <= limit:  # no text has more tokens than characters
        yield from [(spans[0][0], spans[-1][1])] if spans else []
        return
    first, held = spans[0][0], count_tokens(text[slice(*spans[0])])
    for before, (start, end) in pairwise(spans):
        size = count_tokens(text[start:end])
        if held + size > limit:
            yield first, before[1]
            first, held = start, 0
        held += size
    yield first, spans[-1][1]


def split_units(text: str, start: int, end: int, *, limit: int, count_tokens: TokenCounter) -> Iterator[Unit]:
    """The units of a part of a section's text."""
    for span in block_spans(text, start, end):
        if is_table(text[slice(*span)]):
            yield from _table_units(text, *span, count_tokens=count_tokens)
        else:
            for first, last in _pieces(text, *span, fits=lambda part: count_tokens(part) <= limit):
                yield Unit(first, last, count_tokens(text[first:last]))


def pack(units: Iterable[Unit], *, limit: int, overlap: int = 0) -> Iterator[list[Unit]]:
    """Runs of units of at most ``limit`` tokens; each begins with up to ``overlap`` tokens of the one before."""
    held: list[Unit] = []
    fresh = 0
    for unit in units:
        if fresh and _size([*held, unit]) > limit:
            yield held
            held, fresh = _tail(held, limit=min(overlap, limit - unit.size - unit.header_size)), 0
        held, fresh = [*held, unit], fresh + 1
    if fresh:
        yield held


def _cuts(
    text: str, start: int, end: int, *, settings: ChunkSettings, count_tokens: TokenCounter
) -> Iterator[list[Unit]]:
    units = split_units(text, start, end, limit=settings.max_tokens, count_tokens=count_tokens)
    for is_rows, run in groupby(units, key=lambda unit: bool(unit.header)):
        limit = settings.max_table_tokens if is_rows else settings.max_tokens
        yield from pack(run, limit=limit, overlap=settings.overlap_tokens)


def _chunk(section: Section, units: list[Unit], shift: int, ordinal: int) -> Chunk:
    """The characters from the first unit to the last, with the header of a table that is gone on with before them."""
    header, start, end = units[0].header, units[0].start, units[-1].end
    text, pages = section.text[start:end], (section.page_at(start), section.page_at(end - 1))
    if header is None or header[1] + 1 == start:
        start = header[0] if header else start
        return Chunk(
            section.heading_path, ordinal, section.text[start:end], start + shift, end + shift, None, None, *pages
        )
    text = f"{section.text[slice(*header)]}\n{text}"
    spans = (start + shift, end + shift, header[0] + shift, header[1] + shift)
    return Chunk(section.heading_path, ordinal, text, *spans, *pages)


def _filled(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A span without the white space at its ends, unless nothing is left."""
    part = text[start:end]
    lead = len(part) - len(part.lstrip())
    if lead < len(part):
        yield start + lead, start + len(part.rstrip())


def _table_units(text: str, start: int, end: int, *, count_tokens: TokenCounter) -> Iterator[Unit]:
    lines = list(_split(text, start, end, "\n"))
    header = (lines[0][0], lines[1][1])
    size = count_tokens(text[slice(*header)])
    if len(lines) == 2:
        yield Unit(*header, size, movable=False)
    for first, last in lines[2:]:
        yield Unit(first, last, count_tokens(text[first:last]), header=header, header_size=size, movable=False)


def _split(text: str, start: int, end: int, mark: str) -> Iterator[tuple[int, int]]:
    for part in text[start:end].split(mark):
        yield from _filled(text, start, start + len(part))
        start += len(part) + len(mark)


def _pieces(text: str, start: int, end: int, *, fits: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """A span whole where its text fits, else cut at the largest joints that are in it."""
    parts = [(start, end)] if fits(text[start:end]) else _cut(text, start, end)
    if len(parts) == 1:
        yield from parts
        return
    for part in parts:
        yield from _pieces(text, *part, fits=fits)


def _cut(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The largest parts of a text: its lines, else its sentences, else two halves of its words."""
    if len(lines := list(_split(text, start, end, "\n"))) > 1:
        return lines
    if len(sentences := _placed(text, start, split_sentences(text[start:end]))) > 1:
        return sentences
    words = [(start + word.start(), start + word.end()) for word in re.finditer(r"\S+", text[start:end])]
    half = len(words) // 2
    return [(start, words[half - 1][1]), (words[half][0], end)] if half else [(start, end)]


def _placed(text: str, start: int, parts: list[str]) -> list[tuple[int, int]]:
    """Where parts stand that follow each other in a text."""
    spans = []
    for part in parts:
        start = text.index(part, start)
        spans.append((start, start + len(part)))
        start += len(part)
    return spans


def _size(units: Iterable[Unit]) -> int:
    total, header = 0, None
    for unit in units:
        total += unit.size + (unit.header_size if unit.header and unit.header != header else 0)
        header = unit.header
    return total


def _tail(units: list[Unit], *, limit: int) -> list[Unit]:
    """The last movable units that fit in ``limit`` tokens; never all of them."""
    taken: list[Unit] = []
    for unit in reversed(units[1:]):
        if not unit.movable or _size([unit, *taken]) > limit:
            break
        taken.insert(0, unit)
    return taken
