"""A chunk's text as blocks: tables, list items and paragraphs, whatever converter wrote it.

Guarantees: pure, and every non-blank line of the text ends up in one block. Lines of a paragraph, and paragraphs that
stop inside a sentence, are joined, because PDF and plain text break sentences across lines. Not guaranteed: nesting of
lists, which no fact pattern needs.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

ITEM = re.compile(r"^\s*(?:[-*+•▪◦·\u2013]|\d{1,2}[.)])\s+(?P<text>\S.*)$")
KEY_VALUE_LINE = re.compile(r"^[A-Z][^:.|]{1,48}:\s+\S.{0,80}(?<![.:;,])$")
HEADING = re.compile(r"^#{1,6}\s")
RULE = re.compile(r"^[\s=*_-]{3,}$")
TABLE_RULE = re.compile(r"^\|?[\s:|+=-]+\|?$")
EMPHASIS = re.compile(r"(\*\*|__|`)")
CUT_CHARS = 50
"""A shorter paragraph without a stop is rather a caption or a label."""


@dataclass(frozen=True)
class Blocks:
    """What a chunk holds, each kind in reading order."""

    tables: list[list[list[str]]] = field(default_factory=list)
    """Tables as rows of cells; the first row is the header."""

    items: list[str] = field(default_factory=list)
    """List items and lines that read "Attribute: value"."""

    paragraphs: list[str] = field(default_factory=list)
    """Running text, a paragraph a string."""


def parse_blocks(text: str) -> Blocks:
    """Sort the lines of Markdown or plain text into blocks."""
    blocks, lines = Blocks(), [_plain(line) for line in text.splitlines()]
    start = 0
    while start < len(lines):
        end = _same_kind_until(lines, start)
        _add(blocks, _kind(lines[start]), lines[start:end])
        start = end
    return blocks


def _plain(line: str) -> str:
    return EMPHASIS.sub("", html.unescape(line)).replace("\u00a0", " ").replace("\u2019", "'").rstrip()


def _kind(line: str) -> str:
    if not line.strip() or RULE.match(line) or HEADING.match(line):
        return "blank"
    if line.lstrip().startswith("|"):
        return "table"
    return "item" if ITEM.match(line) or KEY_VALUE_LINE.match(line.strip()) else "paragraph"


def _same_kind_until(lines: Sequence[str], start: int) -> int:
    end = start + 1
    while end < len(lines) and _kind(lines[end]) == _kind(lines[start]):
        end += 1
    return end


def _add(blocks: Blocks, kind: str, lines: Sequence[str]) -> None:
    if kind == "table":
        blocks.tables.append([_cells(line) for line in lines if not TABLE_RULE.match(line)])
    elif kind == "item":
        blocks.items.extend(_item_text(line) for line in lines)
    elif kind == "paragraph":
        text = " ".join(line.strip() for line in lines)
        if blocks.paragraphs and _is_cut(blocks.paragraphs[-1]):
            text = f"{blocks.paragraphs.pop()} {text}"
        blocks.paragraphs.append(text)


def _is_cut(paragraph: str) -> bool:
    """Whether a paragraph stops inside a sentence, as the lines of a PDF do."""
    return len(paragraph) >= CUT_CHARS and paragraph[-1] not in ".!?:;\"')"


def _item_text(line: str) -> str:
    match = ITEM.match(line)
    return (match["text"] if match else line).strip()


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", inner)]
