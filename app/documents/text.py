"""Plain text to sections: paragraphs by blank lines, headings where they are underlined, numbered or in capitals.

Guarantees: no word is lost or changed; text without any recognisable heading is one section. Not guaranteed: that every
heading is seen; when in doubt a line is text.
"""

import re

from app.documents.sections import Converted, Outline, one_line

UNDERLINE = re.compile(r"^(=+|-+|~+)$")
NUMBERED = re.compile(r"^\d+(\.\d+)*[.)]?\s+[A-Z]")
LIST_ITEM = re.compile(r"^\s*([-*•]|\d+[.)])\s+")
BULLET = re.compile(r"^[*•]\s+")
MAX_HEADING_CHARS = 70


def convert_text(text: str, *, title: str = "", fallback_title: str = "") -> Converted:
    """Sections of a plain text. A given ``title`` is kept; otherwise a leading heading line becomes the title."""
    outline = Outline(title=title)
    paragraphs = [part for part in re.split(r"\n[ \t]*\n", _unified(text)) if part.strip()]
    for number, paragraph in enumerate(paragraphs):
        lines = [line.rstrip() for line in paragraph.strip("\n").split("\n")]
        first = number == 0 and len(paragraphs) > 1
        if level := _heading_level(lines, first=first and not title):
            outline.heading(lines[0].strip("# "), level=level - 1)
            lines = lines[2:] if len(lines) > 1 else []
        outline.block(_block(lines))
    return outline.finish(fallback_title=fallback_title)


def _unified(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").replace("\x00", "").lstrip("\ufeff")


def _heading_level(lines: list[str], *, first: bool) -> int:
    """1 for a title, 2 and 3 for sections, 0 for text."""
    line = lines[0].strip()
    if not line or len(line) > MAX_HEADING_CHARS:
        return 0
    if len(lines) > 1 and UNDERLINE.match(lines[1].strip()) and len(lines[1].strip()) >= 3:
        return (1 if first else 2) if lines[1].strip()[0] == "=" else 3
    if len(lines) > 1 or line[-1] in ".,;:!?":
        return 0
    if first:
        return 1
    if NUMBERED.match(line):
        return 2 + min(line.split()[0].rstrip(".)").count("."), 1)
    return 2 if line.isupper() and len(line) > 3 else 0


def _block(lines: list[str]) -> str:
    """A paragraph on one line; list items keep lines of their own."""
    merged: list[str] = []
    for line in lines:
        if merged and not LIST_ITEM.match(line):
            merged[-1] += " " + line
        else:
            merged.append(line)
    return "\n".join(BULLET.sub("- ", one_line(line)) for line in merged if line.strip())
