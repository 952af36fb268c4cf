"""What conversion gives: a title and sections, each with its heading path and its text as Markdown.

Guarantees: every heading path begins with the document's title; tables are pipe tables with one header row; blocks
are separated by one blank line. Not guaranteed: pictures, footnotes' places and inline formatting are not kept.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SPACE_BEFORE = re.compile(r" +([.,;:!?)\]])")


@dataclass(frozen=True)
class Section:
    """Text under one heading; the path runs from the document's title to that heading."""

    heading_path: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Converted:
    """A document's title and its sections in reading order."""

    title: str
    sections: tuple[Section, ...]

    @property
    def num_chars(self) -> int:
        """Characters of text, headings not counted."""
        return sum(len(section.text) for section in self.sections)

    def to_json(self) -> dict[str, Any]:
        """The form that crosses the sandbox's pipe."""
        return {"title": self.title, "sections": [[list(part.heading_path), part.text] for part in self.sections]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Converted":
        """Back from :meth:`to_json`."""
        parts = tuple(Section(tuple(map(str, path)), str(text)) for path, text in value["sections"])
        return cls(str(value["title"]), parts)


@dataclass
class Outline:
    """Builds sections from headings and blocks given in reading order."""

    title: str = ""
    _path: list[tuple[int, str]] = field(default_factory=list)
    _blocks: list[str] = field(default_factory=list)
    _done: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    _headings: list[str] = field(default_factory=list)

    def heading(self, text: str, *, level: int) -> None:
        """A heading; 0 is a title, 1 and deeper are sections. The first title names the document."""
        text = one_line(text)
        if not text:
            return
        self._close()
        self._headings.append(text)
        if level == 0 and not self.title:
            self.title, self._path = text, []
            return
        self._path = [(depth, name) for depth, name in self._path if depth < level]
        self._path.append((level, text))

    def block(self, text: str) -> None:
        """A paragraph, list or table; list items that come one by one are put together."""
        text = text.strip()
        if text.startswith("- ") and self._blocks and self._blocks[-1].startswith("- "):
            self._blocks[-1] += f"\n{text}"
        elif text:
            self._blocks.append(text)

    def finish(self, *, fallback_title: str) -> Converted:
        """The document. Without a title, its only top heading names it, or else ``fallback_title``.

        A document of headings only keeps them as its text, so that a deck of titles is not taken for empty.
        """
        self._close()
        if not self._done and self._headings:
            self._done = [((), "\n\n".join(self._headings))]
        title = self.title or self._sole_top_heading() or fallback_title
        return Converted(title, tuple(Section(_rooted(title, path), text) for path, text in self._done))

    def _close(self) -> None:
        path, text = tuple(name for _, name in self._path), "\n\n".join(self._blocks)
        if self._done and self._done[-1][0] == path:
            text = "\n\n".join(part for part in (self._done.pop()[1], text) if part)
        if text:
            self._done.append((path, text))
        self._blocks = []

    def _sole_top_heading(self) -> str:
        tops = {path[0] for path, _ in self._done if path}
        return tops.pop() if len(tops) == 1 and all(path for path, _ in self._done) else ""


def one_line(text: str) -> str:
    """Text with every run of white space as one space, and none before closing punctuation."""
    return SPACE_BEFORE.sub(r"\1", " ".join(text.split()))


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """A pipe table whose header is the first row; cells are cut to one line, bars escaped, short rows padded."""
    cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    width = max((len(row) for row in cells), default=0)
    lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in cells]
    return "\n".join([*lines[:1], "|" + " --- |" * width, *lines[1:]]) if cells else ""


def title_from_name(name: str) -> str:
    """A readable title from a file name: its stem with separators as spaces, the first letter a capital."""
    stem = name.rsplit("/", 1)[-1].split(".", 1)[0]
    title = one_line(stem.replace("_", " ").replace("-", " "))
    return title[:1].upper() + title[1:] if title else name


def _rooted(title: str, path: tuple[str, ...]) -> tuple[str, ...]:
    return path if path[:1] == (title,) else (title, *path)
