"""A handbook page before it has a format: headings, paragraphs, bullets and tables."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A section's heading, one level under the page's title."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of short lines."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table with a header row; every row as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Bullets | Table


@dataclass(frozen=True)
class Page:
    """One document: where it goes (the suffix says the format), its title and its blocks."""

    path: str
    title: str
    blocks: Sequence[Block]

    @property
    def format(self) -> str:
        """The suffix without its dot."""
        return self.path.rpartition(".")[2]
