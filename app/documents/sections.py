"""What conversion gives: a title and sections, each with its heading path, its text as Markdown and its pages.

Guarantees: every heading path begins with the document's title; tables are pipe tables with one header row; blocks
are separated by one blank line; what was left out stands in ``faults``. Not guaranteed: pictures, footnotes' places and
inline formatting are not kept.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

BREAK = "\n\n"
SPACE_BEFORE = re.compile(r" +([.,;:!?)\]])")


@dataclass(frozen=True)
class Section:
    """Text under one heading; the path runs from the document's title to that heading.

    ``pages`` are pairs of an offset into the text and the number of the page that begins there, counted from 1: a
    PDF's page, a slide, a sheet. Empty where the format has no pages.
    """

    heading_path: tuple[str, ...]
    text: str
    pages: tuple[tuple[int, int], ...] = ()

    def page_at(self, offset: int) -> int | None:
        """The page of the character at ``offset``."""
        place = bisect_right(self.pages, offset, key=lambda mark: mark[0])
        return self.pages[max(place, 1) - 1][1] if self.pages else None


@dataclass(frozen=True)
class Facts:
    """What is said of a document, None where nothing. Dates are ISO 8601; the language is an ISO 639-1 code.

    Who may see its chunks holds all of ``access_labels``.
    """

    language: str | None = None
    created: str | None = None
    modified: str | None = None
    uri: str | None = None
    licence: str | None = None
    num_pages: int | None = None
    access_labels: tuple[str, ...] = ()

    def or_else(self, other: "Facts") -> "Facts":
        """These facts, with another's in place of those that are missing, and the labels of both."""
        facts = {name: mine if mine is not None else asdict(other)[name] for name, mine in asdict(self).items()}
        return Facts(**facts | {"access_labels": tuple(sorted({*self.access_labels, *other.access_labels}))})


@dataclass(frozen=True)
class Fault:
    """A part of a document, a page or an attachment, that was left out, and why."""

    part: str
    reason: str


@dataclass(frozen=True)
class Converted:
    """A document's title and its sections in reading order."""

    title: str
    sections: tuple[Section, ...]
    facts: Facts = Facts()
    faults: tuple[Fault, ...] = ()

    @property
    def num_chars(self) -> int:
        """Characters of text, headings not counted."""
        return sum(len(section.text) for section in self.sections)

    def with_facts(self, facts: Facts, *, first: bool = False) -> "Converted":
        """The same document with ``facts`` where it has none; ``first`` in place of its own."""
        return replace(self, facts=facts.or_else(self.facts) if first else self.facts.or_else(facts))

    def renamed(self, title: str) -> "Converted":
        """The same document under another title."""
        parts = (replace(part, heading_path=(title, *part.heading_path[1:])) for part in self.sections)
        return replace(self, title=title, sections=tuple(parts))

    def to_json(self) -> dict[str, Any]:
        """The form that crosses the sandbox's pipe."""
        return {
            "title": self.title,
            "sections": [[list(part.heading_path), part.text, part.pages] for part in self.sections],
            "facts": asdict(self.facts),
            "faults": [[fault.part, fault.reason] for fault in self.faults],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Converted":
        """Back from :meth:`to_json`."""
        parts = tuple(
            Section(tuple(map(str, path)), str(text), tuple((int(place), int(page)) for place, page in pages))
            for path, text, pages in value["sections"]
        )
        faults = tuple(Fault(str(part), str(reason)) for part, reason in value["faults"])
        labels = tuple(map(str, value["facts"]["access_labels"]))
        return cls(str(value["title"]), parts, Facts(**value["facts"] | {"access_labels": labels}), faults)


@dataclass
class Outline:
    """Builds sections from headings and blocks given in reading order."""

    title: str = ""
    _path: list[tuple[int, str]] = field(default_factory=list)
    _blocks: list[tuple[str, int | None]] = field(default_factory=list)
    _done: list[Section] = field(default_factory=list)
    _headings: list[str] = field(default_factory=list)
    _has_blocks: bool = False
    _is_filled: bool = False

    def heading(self, text: str, *, level: int) -> None:
        """A heading; 0 is a title, 1 and deeper are sections. The first title names the document."""
        text = one_line(text)
        if not text:
            return
        self._close(below=level)
        self._headings.append(text)
        if level == 0 and not self.title:
            self.title, self._path = text, []
            return
        self._path = [(depth, name) for depth, name in self._path if depth < level]
        self._path.append((level, text))

    def block(self, text: str, *, page: int | None = None) -> None:
        """A paragraph, list or table; list items that come one by one are put together."""
        text = text.strip()
        if text.startswith("- ") and self._blocks and self._blocks[-1][0].startswith("- "):
            before, first = self._blocks[-1]
            self._blocks[-1] = f"{before}\n{text}", first
        elif text:
            self._blocks.append((text, page))
            self._has_blocks = self._is_filled = True

    def finish(self, *, fallback_title: str) -> Converted:
        """The document. Without a title, its only top heading names it, or else ``fallback_title``.

        A document of headings only keeps them as its text, so that a deck of titles is not taken for empty.
        """
        self._close()
        if not self._has_blocks and self._headings:
            self._done = [Section((), "\n\n".join(self._headings))]
        title = self.title or self._sole_top_heading() or fallback_title
        done = tuple(replace(part, heading_path=_rooted(title, part.heading_path)) for part in self._done)
        return Converted(title, done)

    def _close(self, *, below: int = 0) -> None:
        """End the open section. A heading with nothing below it, not even a deeper one, is text of the one above."""
        path = tuple(name for _, name in self._path)
        if self._path and not self._is_filled and below <= self._path[-1][0]:
            path, self._blocks = path[:-1], [(path[-1], None)]
        if self._blocks:
            same = self._done and self._done[-1].heading_path == path
            self._done.append(_joined(self._done.pop() if same else Section(path, ""), self._blocks))
        self._blocks, self._is_filled = [], False

    def _sole_top_heading(self) -> str:
        tops = {part.heading_path[0] for part in self._done if part.heading_path}
        return tops.pop() if len(tops) == 1 and all(part.heading_path for part in self._done) else ""


def _joined(section: Section, blocks: Sequence[tuple[str, int | None]]) -> Section:
    """A section with blocks behind its text; a page is noted where it differs from the one before."""
    texts, pages = [section.text] if section.text else [], list(section.pages)
    place = len(section.text)
    for text, page in blocks:
        place += len(BREAK) if texts else 0
        if page is not None and (not pages or pages[-1][1] != page):
            pages.append((place, page))
        texts.append(text)
        place += len(text)
    return Section(section.heading_path, BREAK.join(texts), tuple(pages))


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
