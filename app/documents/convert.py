"""One document's bytes to sections, with docling and without any model. Imported by the sandboxed process only.

Guarantees: nothing is fetched from the network and no external file is read; headings keep their order and depth,
tables become pipe tables; partial results are refused rather than passed on. Not guaranteed: protection from hostile
input, which is the sandbox's task; PDF headings and tables are recovered from type sizes and positions (see layout.py).
"""

import re
from collections.abc import Iterator
from io import BytesIO

from docling.datamodel.backend_options import (
    HTMLBackendOptions,
    MsExcelBackendOptions,
    ThreadedDoclingParseBackendOptions,
)
from docling.datamodel.base_models import ConversionStatus, DocumentStream, InputFormat
from docling.datamodel.document import ConversionResult
from docling.datamodel.pipeline_options import NativePdfPipelineOptions
from docling.document_converter import DocumentConverter, ExcelFormatOption, HTMLFormatOption, PdfFormatOption
from docling.pipeline.native_pdf_pipeline import NativePdfPipeline
from docling_core.types.doc import DoclingDocument
from docling_core.types.doc.document import (
    CodeItem,
    ContentLayer,
    GroupItem,
    ListItem,
    NodeItem,
    SectionHeaderItem,
    TableItem,
    TextItem,
    TitleItem,
)
from docling_core.types.doc.labels import GroupLabel
from docling_core.types.doc.page import TextCellUnit

from app.documents.errors import CannotConvert
from app.documents.layout import Word, read_layout
from app.documents.sections import Converted, Outline, markdown_table, one_line, title_from_name
from app.documents.text import convert_text

MACHINE_NUMBER = re.compile(r"\b(0x[0-9a-f]+|[0-9a-f]{32,})\b")
DAMAGED = re.compile(r"could not load document")
OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
ZIPPED = ("docx", "pptx", "xlsx")


class DocumentReader:
    """Converts documents, one after another, with one set of docling pipelines."""

    def __init__(self) -> None:
        pdf = PdfFormatOption(
            pipeline_cls=NativePdfPipeline,
            pipeline_options=NativePdfPipelineOptions(
                text_cell_unit=TextCellUnit.WORD, generate_page_images=False, generate_picture_images=False
            ),
            backend_options=ThreadedDoclingParseBackendOptions(parser_threads=1, render_pages=False),
        )
        html = HTMLFormatOption(backend_options=HTMLBackendOptions(infer_furniture=False, add_title=True))
        excel = ExcelFormatOption(backend_options=MsExcelBackendOptions(parse_charts=False))
        self._docling = DocumentConverter(
            allowed_formats=[InputFormat(name) for name in ("md", "html", "docx", "pptx", "xlsx", "csv", "pdf")],
            format_options={InputFormat.PDF: pdf, InputFormat.HTML: html, InputFormat.XLSX: excel},
        )

    def convert(self, data: bytes, *, name: str, kind: str) -> Converted:
        """Convert the bytes of one document of a known format.

        Raises:
            CannotConvert: with the reason.
        """
        fallback = title_from_name(name)
        if kind == "txt":
            converted = convert_text(_decode(data), fallback_title=fallback)
        else:
            converted = self._with_docling(data, kind=kind, fallback=fallback)
        if not converted.sections:
            raise CannotConvert("no text was found in it (a scan, or pictures only)")
        return converted

    def _with_docling(self, data: bytes, *, kind: str, fallback: str) -> Converted:
        if kind in ZIPPED and data.startswith(OLE_MAGIC):
            raise CannotConvert("encrypted with a password, or in the older binary format under a newer suffix")
        if kind in ("md", "html", "csv"):
            data = _decode(data).encode()
        stream = DocumentStream(name=f"document.{kind}", stream=BytesIO(data))
        result = self._docling.convert(stream, raises_on_error=False)
        if result.status is not ConversionStatus.SUCCESS:
            raise CannotConvert(_reason(result))
        if kind == "pdf":
            return read_layout(_words(result), fallback_title=fallback)
        return _read_document(result.document, fallback=fallback)


def _decode(data: bytes) -> str:
    """UTF-8, UTF-16 with its mark, or else Windows-1252; unknown bytes show as the replacement character."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if data.startswith((b"\x89PNG", b"PK\x03\x04", b"%PDF", OLE_MAGIC)) or b"\0\0\0" in data[:4096]:
        raise CannotConvert("not text: the bytes are those of a binary file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _reason(result: ConversionResult) -> str:
    """Docling's first error on one line, without addresses and digests, so that a second run gives the same reason."""
    messages = [one_line(error.error_message) for error in result.errors if error.error_message.strip()]
    message = MACHINE_NUMBER.sub("...", messages[0]) if messages else f"docling reports {result.status.value}"
    return f"damaged, or not the format that its name says: {message}" if DAMAGED.search(message) else message


def _words(result: ConversionResult) -> list[list[Word]]:
    """Words by page, top-left origin, in points."""
    pages = []
    for page in result.pages:
        cells = page.parsed_page.word_cells if page.parsed_page else []
        height = page.size.height if page.size else 0.0
        boxes = [(cell, cell.rect.to_bounding_box().to_top_left_origin(height)) for cell in cells]
        pages.append([Word(cell.text, box.l, box.t, box.r, box.b, cell.font_key) for cell, box in boxes])
    return pages


def _read_document(document: DoclingDocument, *, fallback: str) -> Converted:
    outline = Outline()
    for node in _children(document.body, document):
        _read_node(node, document, outline)
    return outline.finish(fallback_title=fallback)


def _children(node: NodeItem, document: DoclingDocument) -> Iterator[NodeItem]:
    for reference in node.children:
        child = reference.resolve(document)
        if child.content_layer == ContentLayer.BODY:
            yield child


def _read_node(node: NodeItem, document: DoclingDocument, outline: Outline) -> None:
    """Read one node and what is below it: headings open sections, all else becomes a block of text."""
    if isinstance(node, TitleItem | SectionHeaderItem):
        level = node.level if isinstance(node, SectionHeaderItem) else 0
        outline.heading(node.text or _inline(node, document), level=level)
        if not node.text:
            return
    elif isinstance(node, TableItem):
        outline.block(_table(node, document))
        return
    elif isinstance(node, GroupItem) and node.label in (GroupLabel.LIST, GroupLabel.ORDERED_LIST):
        outline.block("\n".join(_list_lines(node, document, depth=0)))
        return
    elif isinstance(node, GroupItem) and node.label is GroupLabel.INLINE:
        outline.block(_inline(node, document))
        return
    elif isinstance(node, GroupItem) and node.label is GroupLabel.SHEET:
        outline.heading(node.name, level=1)
    elif isinstance(node, CodeItem):
        outline.block(f"```\n{node.text}\n```")
    elif isinstance(node, ListItem):
        outline.block("\n".join(_item_lines(node, document, depth=0)))
        return
    elif isinstance(node, TextItem):
        outline.block(one_line(node.text))
    for child in _children(node, document):
        _read_node(child, document, outline)


def _inline(node: NodeItem, document: DoclingDocument) -> str:
    """The text of everything below a node, on one line."""
    parts = []
    for child in _children(node, document):
        parts.append(child.text if isinstance(child, TextItem) else "")
        parts.append(_inline(child, document))
    return one_line(" ".join(part for part in parts if part))


def _list_lines(group: NodeItem, document: DoclingDocument, *, depth: int) -> Iterator[str]:
    for item in _children(group, document):
        if isinstance(item, ListItem):
            yield from _item_lines(item, document, depth=depth)
        elif isinstance(item, TableItem):
            yield from ("", _table(item, document), "")
        elif isinstance(item, GroupItem) and item.label is not GroupLabel.INLINE:
            yield from _list_lines(item, document, depth=depth + 1)
        else:
            yield "  " * depth + (item.text if isinstance(item, TextItem) else _inline(item, document))


def _item_lines(item: ListItem, document: DoclingDocument, *, depth: int) -> Iterator[str]:
    inline, nested = [item.text], []
    for child in _children(item, document):
        below = isinstance(child, GroupItem) and child.label is not GroupLabel.INLINE
        if below or isinstance(child, ListItem | TableItem):
            nested.append(child)
        else:
            inline.append(child.text if isinstance(child, TextItem) else _inline(child, document))
    text = one_line(" ".join(part for part in inline if part))
    if text:
        yield f"{'  ' * depth}{item.marker if item.enumerated and item.marker else '-'} {text}"
    for child in nested:
        yield from _nested_lines(child, document, depth=depth + 1)


def _nested_lines(node: NodeItem, document: DoclingDocument, *, depth: int) -> Iterator[str]:
    if isinstance(node, TableItem):
        yield from ("", _table(node, document), "")
    elif isinstance(node, ListItem):
        yield from _item_lines(node, document, depth=depth)
    else:
        yield from _list_lines(node, document, depth=depth)


def _table(table: TableItem, document: DoclingDocument) -> str:
    """A table with its caption above; cells say what the document says, never reformatted as numbers."""
    rows = [
        [cell._get_text(doc=document) if cell.start_col_offset_idx == place else "" for place, cell in enumerate(row)]
        for row in table.data.grid
    ]
    caption = one_line(table.caption_text(document))
    return "\n\n".join(part for part in (caption, markdown_table(rows)) if part)
