"""The pages of a PDF as words with boxes, by docling-parse, one page at a time.

Guarantees: a page that cannot be parsed, or that holds pictures and not one word, is a fault of the document and not of
the other pages. Not guaranteed: text that is drawn as curves or pictures, which needs Docling's OCR (see convert.py).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from docling_parse.pdf_parser import (
    ContentConfig,
    ContentLevel,
    DecodeConfig,
    DoclingThreadedPdfParser,
    PageParseResult,
    ThreadedPdfParserConfig,
)

from app.documents.columns import Word
from app.documents.errors import CannotConvert
from app.documents.facts import pdf_facts
from app.documents.layout import read_layout
from app.documents.sections import Converted, Fault, one_line
from app.documents.tables import Shape, with_tables

PICTURES = "no text was found on it (a scan, or pictures only)"
KEY = re.compile(r" of key=\w+")
LIGHT = 190
"""Brightness, of 255, above which a box is taken for shading and not for a line."""
CONTENT = ContentConfig(
    char_cells_content_level=ContentLevel.COMPUTE,
    word_cells_content_level=ContentLevel.COMPUTE_AND_MATERIALIZE,
    line_cells_content_level=ContentLevel.SKIP,
    shapes_content_level=ContentLevel.COMPUTE_AND_MATERIALIZE,
    bitmaps_content_level=ContentLevel.COMPUTE_AND_MATERIALIZE,
    include_bitmap_bytes=False,
)


@dataclass(frozen=True)
class Page:
    """The words of a page, and why it has none or lacks some."""

    number: int
    words: list[Word]
    fault: str = ""


def read_pdf(data: bytes, *, fallback_title: str, max_pages: int) -> Converted:
    """Sections of a PDF.

    Raises:
        CannotConvert: it is encrypted, damaged, longer than ``max_pages``, or has no page that could be read.
    """
    info, num_pages = _info(data)
    if num_pages > max_pages:
        raise CannotConvert(f"it has {num_pages} pages, more than {max_pages} (documents.limits.pages)")
    pages = sorted(read_pages(data), key=lambda page: page.number)
    faults = tuple(Fault(f"page-{page.number}", page.fault) for page in pages if page.fault)
    if faults and not any(page.words for page in pages):
        raise CannotConvert(faults[0].reason.replace("on it", "in it"))
    title = one_line(info.get("Title", "")) if _is_title(info.get("Title", "")) else fallback_title
    converted = read_layout([page.words for page in pages], fallback_title=title)
    facts = pdf_facts(info, num_pages=len(pages))
    return Converted(converted.title, converted.sections, facts, faults)


def read_pages(data: bytes) -> Iterator[Page]:
    """The pages in any order.

    Raises:
        CannotConvert: the document cannot be opened.
    """
    config = ThreadedPdfParserConfig(loglevel="fatal", threads=1, page_content_config=CONTENT)
    parser = DoclingThreadedPdfParser(parser_config=config, decode_config=DecodeConfig())
    try:
        key = parser.load(BytesIO(data))
    except (RuntimeError, ValueError) as error:
        raise CannotConvert("damaged, or not the format that its name says: it has no readable pages") from error
    try:
        for result in parser.iterate_results():
            yield _page(result)
    finally:
        while parser.has_tasks():
            parser.get_task()
        parser.unload(key)


def _page(result: PageParseResult) -> Page:
    if not result.success:
        return Page(result.page_number, [], page_fault(result.error_message))
    page = result.get_page()
    height = page.dimension.height
    words = [_word(cell, height) for cell in page.word_cells if cell.text.strip("\ufffd \x00")]
    num_unreadable = len(page.word_cells) - len(words)
    shapes = [_shape(shape, height) for shape in page.shapes if len(shape.points) > 1]
    fault = (
        f"{num_unreadable} words are left out: their font does not say what its signs mean" if num_unreadable else ""
    )
    return Page(
        result.page_number,
        with_tables(words, shapes),
        fault or (PICTURES if not words and page.bitmap_resources else ""),
    )


def _word(cell: Any, height: float) -> Word:
    """A word from its box's corners, whose origin is the page's bottom left."""
    box = cell.rect
    xs, ys = (box.r_x0, box.r_x1, box.r_x2, box.r_x3), (box.r_y0, box.r_y1, box.r_y2, box.r_y3)
    upright = abs(box.r_x1 - box.r_x0) >= abs(box.r_y1 - box.r_y0)
    return Word(
        cell.text, min(xs), height - max(ys), max(xs), height - min(ys), cell.font_name.rsplit("+", 1)[-1], upright
    )


def page_fault(message: str) -> str:
    """Why a page cannot be parsed, without the parser's name for its document."""
    if "bad_alloc" in message:
        return "it needs more memory than a document may take (documents.limits.memory_bytes)"
    return f"it cannot be parsed: {one_line(KEY.sub('', message))[:200]}"


def _shape(shape: Any, height: float) -> Shape:
    colour = shape.rgb_filling
    brightness = 0.3 * colour.r + 0.6 * colour.g + 0.1 * colour.b
    return Shape([(x, height - y) for x, y in shape.points], is_light=brightness > LIGHT)


def _info(data: bytes) -> tuple[dict[str, str], int]:
    """The document information and the number of pages, by PDFium, which says why it cannot open a file."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if b"/Encrypt" in data:  # PDFium's own reason may be that of the file before
            raise CannotConvert("encrypted with a password, or damaged") from error
        return {}, 0  # docling-parse mends files that PDFium gives up
    try:
        return document.get_metadata_dict(), len(document)
    finally:
        document.close()


def _is_title(text: str) -> bool:
    """Whether a title in the document information is one, not a file's or a program's name."""
    words = text.split()
    return 2 <= len(words) <= 30 and not text.startswith("Microsoft ") and not text.lower().endswith((".doc", ".docx"))
