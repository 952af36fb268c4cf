"""Pages to files: the text formats, and the door to the office and PDF ones.

Guarantees: the same page gives the same bytes.
"""

import html
import textwrap
from collections.abc import Callable, Mapping
from itertools import chain

from app.demo.facts import COOPERATIVE
from app.demo.pages import Block, Bullets, Heading, Page, Paragraph, Table


def render(page: Page) -> bytes:
    """The page's file; imports a format's library when a page needs it."""
    from app.demo.render_office import render_csv, render_docx, render_pptx, render_xlsx
    from app.demo.render_pdf import render_pdf

    writers: Mapping[str, Callable[[Page], bytes]] = {
        "md": lambda page: markdown(page).encode(),
        "html": lambda page: html_text(page).encode(),
        "txt": lambda page: plain_text(page).encode(),
        "docx": render_docx,
        "pptx": render_pptx,
        "xlsx": render_xlsx,
        "csv": render_csv,
        "pdf": render_pdf,
    }
    return writers[page.format](page)


def markdown(page: Page) -> str:
    """The page as Markdown."""
    return "\n\n".join([f"# {page.title}", *map(_markdown_block, page.blocks)]) + "\n"


def html_text(page: Page) -> str:
    """The page as HTML, with the navigation and footer that real pages have."""
    body = "\n".join(map(_html_block, page.blocks))
    title = html.escape(page.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>\n<body>\n'
        f"<h1>{title}</h1>\n{body}\n<footer><p>Handbook of the {COOPERATIVE}.</p></footer>\n</body>\n</html>\n"
    )


def plain_text(page: Page) -> str:
    """The page as plain text: headings underlined, tables as lists of name and value."""
    underlined = f"{page.title}\n{'=' * len(page.title)}"
    return "\n\n".join([underlined, *map(_text_block, page.blocks)]) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text):
            return text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(header, rows):
            rule = ("---",) * len(header)
            return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _html_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{html.escape(item)}</li>" for item in items) + "\n</ul>"
        case Table(header, rows):
            lines = [_html_row(header, "th"), *(_html_row(row, "td") for row in rows)]
            return "<table>\n" + "\n".join(lines) + "\n</table>"


def _html_row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _text_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"{text}\n{'-' * len(text)}"
        case Paragraph(text):
            return "\n".join(_wrapped(text))
        case Bullets(items):
            return "\n".join(f"* {item}" for item in items)
        case Table(header, rows):
            pairs = chain.from_iterable(zip(header[1:], row[1:], strict=True) for row in rows)
            lines = (f"* {row[0]}: {row[1]}" for row in (rows if len(header) == 2 else pairs))
            return "\n".join(lines)


def _wrapped(text: str, width: int = 88) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
