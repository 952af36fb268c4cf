"""A DoclingDocument's tree to sections.

Guarantees: headings keep their order and depth, lists their nesting, tables become pipe tables whose cells say what the
document says; text in running headers and footers is left out where docling tells it apart.
"""

from collections.abc import Iterator

from docling_core.types.doc import DoclingDocument
from docling_core.types.doc.document import (
    CodeItem,
    ContentLayer,
    DocItem,
    GroupItem,
    ListItem,
    NodeItem,
    SectionHeaderItem,
    TableItem,
    TextItem,
    TitleItem,
)
from docling_core.types.doc.labels import GroupLabel

from app.documents.sections import Converted, Outline, markdown_table, one_line


def read_document(document: DoclingDocument, *, fallback_title: str, title: str = "") -> Converted:
    """Sections of a converted document, with the page of each block where its format has pages."""
    outline = Outline(title=title)
    for node in _children(document.body, document):
        _read_node(node, document, outline)
    return outline.finish(fallback_title=fallback_title)


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
    elif isinstance(node, GroupItem) and node.label is GroupLabel.SHEET:
        outline.heading(node.name, level=1)
    elif (text := _block(node, document)) is not None:
        outline.block(text, page=_page(node, document))
        if not isinstance(node, TextItem) or isinstance(node, ListItem):
            return
    for child in _children(node, document):
        _read_node(child, document, outline)


def _block(node: NodeItem, document: DoclingDocument) -> str | None:
    """The text of a node that is a block, None for a node that only holds others."""
    if isinstance(node, TableItem):
        return _table(node, document)
    if isinstance(node, GroupItem) and node.label in (GroupLabel.LIST, GroupLabel.ORDERED_LIST):
        return "\n".join(_list_lines(node, document, depth=0))
    if isinstance(node, GroupItem) and node.label is GroupLabel.INLINE:
        return _inline(node, document)
    if isinstance(node, CodeItem):
        return f"```\n{node.text}\n```"
    if isinstance(node, ListItem):
        return "\n".join(_item_lines(node, document, depth=0))
    return one_line(node.text) if isinstance(node, TextItem) else None


def _page(node: NodeItem, document: DoclingDocument) -> int | None:
    """The page of a node, or of the first node below it that has one."""
    if isinstance(node, DocItem) and node.prov:
        return int(node.prov[0].page_no)
    below = (_page(child, document) for child in _children(node, document))
    return next((page for page in below if page is not None), None)


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
