"""A PDF's words to headings, paragraphs, lists and simple tables, by type size and position alone. Pure.

How: tables with ruling lines come from tables.py, lines in reading order from columns.py, cut into segments where a gap
is wider than a word space. Runs of three lines or more, at least half of them with several segments, that stand in
common columns are tables; when their cells are long, or most rows have one, they are columns of running text and are
read one after another. Lines that lead by dots to a page number are a table of contents. Lines set larger than the
body, or alone in another font, are headings, ranked by size, but for those that begin as a caption does. Lines that
recur at one height on most pages are headers and footers and are left out.

Guarantees: other than headers, footers, page numbers and dots that lead to them, every word given comes out. Not
guaranteed: nested tables, merged cells without ruling lines, or tables with neither lines nor gaps between columns.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.documents.columns import Line, Word, read_lines
from app.documents.sections import Converted, Outline, markdown_table, one_line

LARGER = 1.1
MIN_TABLE_LINES = 3
SMALLER = 0.9
TITLE_PAGES = 2
MAX_HEADING_CHARS = 120
PROSE_CELL_CHARS = 28
MAX_MARK_CHARS = 8
BULLET = re.compile(r"^(?:[•▪◦●‣·\x7f\ue000-\uf8ff]|[-\u2013](?=\s)|\(?\d{1,2}[.)](?=\s))\s*")
LEADER = re.compile(r"^(.*?\w.*?)\s?(?:\.\s?){4,}(\w{1,6})$")
CAPTION = re.compile(
    r"^(?:figure|fig\.|table|example|listing|exhibit|box|chart|abbildung|tabelle)\s+[\dA-Z]", re.IGNORECASE
)
PAGE_NUMBER = re.compile(r"^(?:page\s*)?#(?:\s*(?:/|of|-)\s*#)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Body:
    """What most characters of a document are set in, and the larger sizes above it, largest first."""

    size: float
    font: str
    larger: tuple[float, ...]


def read_layout(pages: Sequence[Sequence[Word]], *, fallback_title: str) -> Converted:
    """Sections of a document from its pages' words."""
    lines = [line for number, words in enumerate(pages) for line in read_lines(words, page=number)]
    lines = list(_without_furniture(lines, num_pages=len(pages)))
    outline = Outline()
    if lines:
        body = find_body(lines)
        for is_table, block in split_tables(lines):
            _read_block(block, body, outline, is_table=is_table)
    return outline.finish(fallback_title=fallback_title)


def find_body(lines: Sequence[Line]) -> Body:
    """The body's size and font, by characters, and the heading sizes."""
    sizes: Counter[float] = Counter()
    fonts: Counter[str] = Counter()
    for line in [line for line in lines if not line.rows] or lines:
        sizes[line.size] += len(line.text)
        fonts[line.font] += len(line.text)
    size = max(sizes, key=lambda value: (sizes[value], -value))
    larger = sorted((value for value in sizes if value > LARGER * size), reverse=True)
    return Body(size, fonts.most_common(1)[0][0], tuple(larger))


def split_tables(lines: Sequence[Line]) -> Iterator[tuple[bool, list[Line]]]:
    """Lines in runs: True with one whose lines stand in columns, as a table's do, False with plain text."""
    plain: list[Line] = []
    index = 0
    while index < len(lines):
        end = _table_end(lines, index)
        if lines[index].rows or _contents_end(lines, index) - index >= 2:
            end = max(_contents_end(lines, index), index + 1)
        elif end - index < MIN_TABLE_LINES:
            end = index
        if end > index:
            yield from ([(False, plain)] if plain else [])
            yield True, list(lines[index:end])
            plain, index = [], end
        else:
            plain.append(lines[index])
            index += 1
    if plain:
        yield False, plain


def columns_of(lines: Sequence[Line]) -> list[tuple[float, float]]:
    """The columns that the lines' segments stand in: the union of segments that overlap sideways."""
    spans = sorted((part.left, part.words[-1].right) for line in lines for part in line.segments())
    columns: list[tuple[float, float]] = []
    for left, right in spans:
        if columns and left < columns[-1][1]:
            columns[-1] = (columns[-1][0], max(columns[-1][1], right))
        else:
            columns.append((left, right))
    return columns


def table_rows(lines: Sequence[Line]) -> list[list[str]]:
    """Cells by row. A line whose first cell is empty continues the row above it: a cell that was wrapped."""
    columns = columns_of(lines)
    rows: list[list[str]] = []
    for before, line in zip([None, *lines[:-1]], lines, strict=True):
        cells = [""] * len(columns)
        for part in line.segments():
            place = next(n for n, (left, right) in enumerate(columns) if left <= part.left <= right)
            cells[place] = one_line(f"{cells[place]} {part.text}")
        if rows and before and _continues(before, line, cells):
            rows[-1] = [one_line(f"{above} {cell}") for above, cell in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    return rows


def _contents_end(lines: Sequence[Line], start: int) -> int:
    """One past the last of a run of lines that lead to a page number by dots, as a table of contents has."""
    end = start
    while end < len(lines) and not lines[end].rows and LEADER.match(lines[end].text):
        end += 1
    return end


def _contents(lines: Sequence[Line]) -> list[list[str]]:
    """What is named and its page, where every line leads from one to the other by dots."""
    found = [LEADER.match(line.text) for line in lines]
    return [[match.group(1), match.group(2)] for match in found if match] if all(found) else []


def _table_end(lines: Sequence[Line], start: int) -> int:
    """One past the last line of the table that begins at ``start``; ``start`` itself where none does."""
    if lines[start].rows or len(lines[start].segments()) < 2:
        return start
    end = start + 1
    while end < len(lines) and _joins(lines[start:end], lines[end], lines[end + 1 : end + 2]):
        end += 1
    while end > start and 2 * sum(len(line.segments()) > 1 for line in lines[start:end]) < end - start:
        end -= 1
    return end


def _joins(table: Sequence[Line], line: Line, following: Sequence[Line]) -> bool:
    """Whether a line goes on with a table: near it, and its segments fall into the columns without melting them."""
    last = table[-1]
    if line.rows or _apart(last, line) or line.top - last.bottom > 2.2 * last.size or line.size > LARGER * last.size:
        return False
    columns = columns_of(table)
    if len(line.segments()) < 2:
        inside = line.words[-1].right < columns[1][0] or line.left > columns[0][1]
        more = not following or len(following[0].segments()) > 1 or line.left > columns[0][1]
        return inside and (more or _regular_pitch(table, line)) and len(columns_of([*table, line])) == len(columns)
    return len(columns_of([*table, line])) >= max(2, len(columns))


def _regular_pitch(table: Sequence[Line], line: Line) -> bool:
    """Whether a line stands below the last as far as the last below the one before."""
    if len(table) < 2:
        return False
    return abs((line.bottom - table[-1].bottom) - (table[-1].bottom - table[-2].bottom)) < 1.0


def _continues(before: Line, line: Line, cells: Sequence[str]) -> bool:
    tight = line.top - before.bottom < 0.35 * line.size
    return tight and not cells[0] and sum(bool(cell) for cell in cells) < len(cells)


def _is_prose(lines: Sequence[Line]) -> bool:
    """Whether a run of lines in columns is running text set in columns: long segments in more than one column."""
    columns = columns_of(lines)
    lengths: list[list[int]] = [[] for _ in columns]
    for line in lines:
        for part in line.segments():
            place = next(n for n, (left, right) in enumerate(columns) if left <= part.left <= right)
            lengths[place].append(len(part.text))
    long = [sum(each) / len(each) >= PROSE_CELL_CHARS for each in lengths]
    return len(lines) >= 4 and sum(long) >= 2


def _by_column(lines: Sequence[Line]) -> list[Line]:
    """The segments of running text in columns, column after column."""
    columns = columns_of(lines)
    parts = [part for line in lines for part in line.segments()]
    return [part for left, right in columns for part in parts if left <= part.left <= right]


def _read_block(lines: list[Line], body: Body, outline: Outline, *, is_table: bool) -> None:
    rows = lines[0].rows or _contents(lines) or (() if not is_table or _is_prose(lines) else table_rows(lines))
    if rows and (lines[0].rows or 2 * sum(sum(map(bool, row)) > 1 for row in rows) >= len(rows)):
        text = "\n".join(f"- {item}" for _, item in rows) if _is_list(rows) else markdown_table(rows)
        outline.block(text, page=lines[0].page + 1)
        return
    if is_table:
        lines = _by_column(lines)
    for paragraph in _paragraphs(lines, body):
        text = _join(paragraph)
        level = _level(paragraph, text, body)
        if level is None:
            outline.block(BULLET.sub(_plain_bullet, text), page=paragraph[0].page + 1)
        else:
            outline.heading(text, level=level)


def _is_list(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first of two columns holds one and the same mark in every row: a list whose bullets stand apart."""
    marks = {row[0] for row in rows}
    return len(rows[0]) == 2 and len(marks) == 1 and len(rows) > 1 and len(min(marks)) <= MAX_MARK_CHARS


def _plain_bullet(match: re.Match[str]) -> str:
    mark = match.group().strip()
    return f"{mark} " if mark[-1] in ".)" else "- "


def _paragraphs(lines: Sequence[Line], body: Body) -> Iterator[list[Line]]:
    """Lines that belong together: same size and face, close to each other, no bullet at the start of the second."""
    group: list[Line] = []
    for line in lines:
        if group and not _same_paragraph(group[-1], line, body):
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _same_paragraph(before: Line, line: Line, body: Body) -> bool:
    if _apart(before, line):
        return line.size == before.size == body.size and line.font == before.font and before.text[-1:] not in ".:!?"
    near = -0.5 * line.size < line.top - before.bottom < 0.45 * line.size
    alike = line.size == before.size and (
        line.font == before.font or (line.size == body.size != 0 and _mixed(before, line))
    )
    return near and alike and not BULLET.match(line.text)


def _apart(before: Line, line: Line) -> bool:
    """Whether a page or column ends between two lines."""
    return (before.page, before.region) != (line.page, line.region)


def _mixed(before: Line, line: Line) -> bool:
    """Whether two lines share a font at all, as a paragraph with some bold words does."""
    return bool({word.font for word in before.words} & {word.font for word in line.words})


def _join(lines: Sequence[Line]) -> str:
    """One text, with words that were cut at a line's end put together again."""
    text = ""
    for line in lines:
        if text.endswith("-") and line.text[:1].islower() and text[-2:-1].isalpha():
            text = text[:-1] + line.text
        else:
            text = f"{text} {line.text}".strip()
    return text


def _level(paragraph: Sequence[Line], text: str, body: Body) -> int | None:
    """0 for a title, 1 and deeper for headings, None for text."""
    first = paragraph[0]
    wordy = len(text) > MAX_HEADING_CHARS or len(paragraph) > 3 or not any(char.isalpha() for char in text)
    mark = BULLET.match(text)
    if wordy or CAPTION.match(text) or (mark and not any(map(str.isdigit, mark.group()))):
        return None
    if first.size in body.larger:
        return max(body.larger.index(first.size), int(first.page >= TITLE_PAGES))
    other = all(word.font != body.font for line in paragraph for word in line.words)
    alone = len(paragraph) == 1 and text[-1] not in ".,;:" and len(text) <= 80 and first.size >= SMALLER * body.size
    return len(body.larger) + 1 if other and alone else None


def _without_furniture(lines: Sequence[Line], *, num_pages: int) -> Iterator[Line]:
    """Leave out lines that stand at one height, digits aside, on most pages, and lone page numbers at an edge."""
    if num_pages < 2:
        yield from lines
        return
    seen = Counter({key: len(pages) for key, pages in _pages_by_line(lines).items()})
    edges = {page: _edge_lines(lines, page) for page in range(num_pages)}
    for line in lines:
        recurs = seen[_key(line)] >= max(2, 0.6 * num_pages)
        numbered = PAGE_NUMBER.match(_masked(line.text)) is not None
        edge = len(edges[line.page]) > 2 and id(line) in edges[line.page]
        if not (edge and (recurs or numbered)):
            yield line


def _pages_by_line(lines: Iterable[Line]) -> dict[tuple[str, int], set[int]]:
    pages: dict[tuple[str, int], set[int]] = {}
    for line in lines:
        pages.setdefault(_key(line), set()).add(line.page)
    return pages


def _edge_lines(lines: Sequence[Line], page: int) -> set[int]:
    own = [id(line) for line in lines if line.page == page]
    return {*own[:2], *own[-2:]}


def _key(line: Line) -> tuple[str, int]:
    return _masked(line.text), round(line.top / 4)


def _masked(text: str) -> str:
    return re.sub(r"\d+", "#", text)
