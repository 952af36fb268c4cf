"""Pages as DOCX, PPTX, XLSX and CSV.

Guarantees: the same bytes for the same page and library version: archives are written again with fixed dates.
"""

import csv
import re
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO, StringIO
from typing import Any

import docx
import openpyxl
import pptx
from pptx.util import Inches

from app.demo.pages import Block, Bullets, Heading, Page, Paragraph, Table

EPOCH = (1980, 1, 1, 0, 0, 0)
DATED = re.compile(rb"(<dcterms:(?:created|modified)[^>]*>)[^<]*(<)")
COUNT = re.compile(r"^(\d{1,3}) ([a-z]+)$")
TITLE_AND_TEXT, TITLE_ONLY = 1, 5


def render_docx(page: Page) -> bytes:
    """A Word document with heading, list and table styles."""
    document = docx.Document()
    document.add_heading(page.title, level=1)
    for block in page.blocks:
        _add_to_docx(document, block)
    return _saved(document)


def render_pptx(page: Page) -> bytes:
    """Slides that all bear the page's title, a section or a table each."""
    deck = pptx.Presentation()
    for texts in _slides(page.blocks):
        if isinstance(texts, Table):
            _add_table_slide(deck, page.title, texts)
        else:
            _add_text_slide(deck, page.title, texts)
    return _saved(deck)


def render_xlsx(page: Page) -> bytes:
    """A workbook with the page's tables, a sheet each; counted columns hold numbers, with their unit in the header."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for table in _tables(page):
        sheet = book.create_sheet(page.title[:31])
        for row in zip(*map(_numeric_column, zip(table.header, *table.rows, strict=True)), strict=True):
            sheet.append(row)
    return _saved(book)


def render_csv(page: Page) -> bytes:
    """The page's tables as comma-separated values."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for table in _tables(page):
        writer.writerows([table.header, *table.rows])
    return buffer.getvalue().encode()


def _tables(page: Page) -> list[Table]:
    return [block for block in page.blocks if isinstance(block, Table)]


def _numeric_column(column: Sequence[str]) -> Sequence[str | int]:
    """("Fee", "12 euros", "5 euros") -> ("Fee (euros)", 12, 5) where every cell counts the same unit."""
    matches = [COUNT.match(cell) for cell in column[1:]]
    units = {match[2] if match else None for match in matches}
    if len(units) != 1 or None in units:
        return column
    return [f"{column[0]} ({units.pop()})", *(int(match[1]) for match in matches if match)]


def _add_to_docx(document: Any, block: Block) -> None:
    match block:
        case Heading(text):
            document.add_heading(text, level=2)
        case Paragraph(text):
            document.add_paragraph(text)
        case Bullets(items):
            for item in items:
                document.add_paragraph(item, style="List Bullet")
        case Table(header, rows):
            grid = document.add_table(rows=0, cols=len(header), style="Table Grid")
            _fill(iter((header, *rows)), lambda: grid.add_row().cells)


def _fill(rows: Iterator[Sequence[str]], next_cells: Any) -> None:
    for row in rows:
        for cell, text in zip(next_cells(), row, strict=True):
            cell.text = text


def _slides(blocks: Sequence[Block]) -> Iterator[Table | list[str]]:
    """A slide's texts up to the next heading or table; a slide has no room for more."""
    texts: list[str] = []
    for block in blocks:
        if isinstance(block, Paragraph | Bullets):
            texts.extend([block.text] if isinstance(block, Paragraph) else block.items)
            continue
        if texts:
            yield texts
        texts = []
        if isinstance(block, Table):
            yield block
    if texts:
        yield texts


def _add_text_slide(deck: Any, title: str, texts: Sequence[str]) -> None:
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_AND_TEXT])
    slide.shapes.title.text = title
    slide.placeholders[1].text = "\n".join(texts)


def _add_table_slide(deck: Any, title: str, table: Table) -> None:
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    slide.shapes.title.text = title
    shape = slide.shapes.add_table(
        len(table.rows) + 1, len(table.header), Inches(0.5), Inches(2), Inches(9), Inches(0.4 * len(table.rows))
    )
    rows = iter(shape.table.rows)
    _fill(iter((table.header, *table.rows)), lambda: next(rows).cells)


def _saved(document: Any) -> bytes:
    buffer = BytesIO()
    document.save(buffer)
    return _undated(buffer)


def _undated(archive: BytesIO) -> bytes:
    """The archive written again: fixed entry dates, and fixed dates in its properties."""
    result = BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = DATED.sub(rb"\g<1>2026-01-01T00:00:00Z\g<2>", old.read(name))
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, data)
    return result.getvalue()
