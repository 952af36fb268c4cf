"""Pages as PDF: real text, headings in larger fonts, ruled tables.

Guarantees: the same bytes for the same page and reportlab version (`invariant` fixes dates and ids).
"""

from io import BytesIO
from typing import Any

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.platypus import Flowable, SimpleDocTemplate
from reportlab.platypus import Paragraph as Text
from reportlab.platypus import Table as Grid

from app.demo.pages import Block, Bullets, Heading, Page, Paragraph, Table

TITLE = ParagraphStyle("title", fontName="Helvetica-Bold", fontSize=22, leading=28, spaceAfter=10)
HEADING = ParagraphStyle("heading", fontName="Helvetica-Bold", fontSize=15, leading=20, spaceBefore=10, spaceAfter=4)
BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=10.5, leading=12.6, spaceAfter=8)
BULLET = ParagraphStyle("bullet", parent=BODY, leftIndent=8, spaceAfter=4)
GRID = [
    ("GRID", (0, 0), (-1, -1), 0.5, colors.grey),
    ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 10),
    ("FONT", (0, 1), (-1, -1), "Helvetica", 10),
]


def render_pdf(page: Page) -> bytes:
    """The page as a PDF of A4 pages."""
    buffer = BytesIO()
    template = SimpleDocTemplate(buffer, pagesize=A4, invariant=1, title=page.title, pageCompression=0)
    story: list[Any] = [Text(page.title, TITLE)]
    for block in page.blocks:
        story.extend(_flowables(block))
    template.build(story)
    return buffer.getvalue()


def _flowables(block: Block) -> list[Flowable]:
    match block:
        case Heading(text):
            return [Text(text, HEADING)]
        case Paragraph(text):
            return [Text(text, BODY)]
        case Bullets(items):
            return [Text(f"• {item}", BULLET) for item in items]
        case Table(header, rows):
            return [Grid([header, *rows], style=GRID, hAlign="LEFT", spaceBefore=6, spaceAfter=6)]
