"""A page's words to lines in reading order: columns of running text are found and read one after another. Pure.

How: a gutter is a place that is left of many segments' beginnings and that no segment crosses over a band of lines;
the band is cut there when both sides hold at least ``MIN_LINES`` lines of running text, and each side is looked at
again. What stands above, between and below the bands is read across. Source of the idea: recursive XY-cut (Nagy and
Seth, 1984), with a test of the text on both sides so that tables stay whole.

Guarantees: every upright word is in exactly one line; words set sideways come last, as lines of their own.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby, pairwise

from app.documents.sections import one_line

GAP_EM = 0.85
GUTTER_EM = 0.6
MIN_LINES = 5
MIN_CHARS = 20
MAX_DEPTH = 3
NUM_CANDIDATES = 12
STEP_PT = 2.0
INDENT_PT = 24.0


@dataclass(frozen=True)
class Word:
    """A word and its box in points from the top left of its page; ``font`` tells fonts apart and means nothing else.

    ``rows`` are those of a whole table that the word stands for (see tables.py).
    """

    text: str
    left: float
    top: float
    right: float
    bottom: float
    font: str = ""
    upright: bool = True
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def height(self) -> float:
        """Height of the box: the type size up to a factor that is the same throughout a document."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Line:
    """Words on one baseline, from left to right. Lines of one region of a page follow each other."""

    words: tuple[Word, ...]
    page: int
    region: int = 0

    @property
    def text(self) -> str:
        words = [word.text for word in self.words]
        return one_line(" ".join(reversed(words) if is_right_to_left(words) else words))

    @property
    def top(self) -> float:
        return min(word.top for word in self.words)

    @property
    def bottom(self) -> float:
        return max(word.bottom for word in self.words)

    @property
    def left(self) -> float:
        return self.words[0].left

    @property
    def right(self) -> float:
        return max(word.right for word in self.words)

    @property
    def size(self) -> float:
        """The height that most of its characters have, in half points."""
        sizes: Counter[float] = Counter()
        for word in self.words:
            sizes[round(word.height * 2) / 2] += len(word.text)
        return max(sizes, key=lambda size: (sizes[size], size))

    @property
    def font(self) -> str:
        return Counter(word.font for word in self.words).most_common(1)[0][0]

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The rows of the table that the line is, if it is one."""
        return self.words[0].rows

    def segments(self) -> list["Line"]:
        """The line cut where the gap between two words is wider than a word space."""
        cut = [0]
        for number, (before, after) in enumerate(pairwise(self.words), start=1):
            if after.left - before.right > GAP_EM * min(before.height, after.height):
                cut.append(number)
        return [replace(self, words=self.words[a:b]) for a, b in zip(cut, [*cut[1:], len(self.words)], strict=True)]


def read_lines(words: Iterable[Word], *, page: int) -> list[Line]:
    """A page's lines in reading order."""
    filled = [word for word in words if word.text.strip()]
    regions = list(_regions([word for word in filled if word.upright], depth=0))
    sideways = [[word] for word in filled if not word.upright]
    numbers = count()
    return [line for region in [*regions, *sideways] for line in page_lines(region, page=page, region=next(numbers))]


def page_lines(words: Iterable[Word], *, page: int, region: int = 0) -> list[Line]:
    """Words by baseline, from top to bottom and left to right."""
    rows: list[list[Word]] = []
    for word in sorted((word for word in words if word.text.strip()), key=lambda word: (word.bottom, word.left)):
        if rows and not (word.rows or rows[-1][-1].rows) and _same_baseline(rows[-1][-1], word):
            rows[-1].append(word)
        else:
            rows.append([word])
    return [Line(tuple(sorted(row, key=lambda word: word.left)), page, region) for row in rows]


def is_right_to_left(words: Iterable[str]) -> bool:
    """Whether most letters of a line belong to a script that runs from right to left (Unicode's bidi classes)."""
    kinds = Counter(unicodedata.bidirectional(letter) for word in words for letter in word if letter.isalpha())
    return kinds["R"] + kinds["AL"] > kinds["L"]


def _regions(words: Sequence[Word], *, depth: int) -> Iterator[list[Word]]:
    """The words of each region, in reading order."""
    rows = [line.segments() for line in page_lines(words, page=0)]
    cut = _best_cut(rows) if depth < MAX_DEPTH else None
    if cut is None:
        yield list(words)
        return
    gutter, start, end = cut
    if start:
        yield from _regions(_words_of(rows[:start]), depth=depth + 1)
    band = _words_of(rows[start:end])
    yield from _regions([word for word in band if word.right <= gutter], depth=depth + 1)
    yield from _regions([word for word in band if word.right > gutter], depth=depth + 1)
    if end < len(rows):
        yield from _regions(_words_of(rows[end:]), depth=depth + 1)


def _best_cut(rows: Sequence[list[Line]]) -> tuple[float, int, int] | None:
    """The gutter with the longest band of lines that are running text on both sides: its place, first and last row."""
    best: tuple[float, int, int] | None = None
    for gutter in _candidates(rows):
        for start, end in _bands(rows, gutter):
            longer = best is None or end - start > best[2] - best[1]
            if longer and _is_prose(rows[start:end], gutter):
                best = gutter, start, end
    return best


def _candidates(rows: Sequence[list[Line]]) -> list[float]:
    """Places just left of where many segments begin, or of where one begins that these may be indented under."""
    lefts = Counter(round(part.left / STEP_PT) for row in rows for part in row)
    common = [place for place, number in lefts.most_common(NUM_CANDIDATES) if number >= MIN_LINES]
    near = {place for place in lefts for other in common if 0 < (other - place) * STEP_PT <= INDENT_PT}
    return [STEP_PT * (place - 1) for place in [*common, *sorted(near.difference(common), reverse=True)]]


def _bands(rows: Sequence[list[Line]], gutter: float) -> Iterator[tuple[int, int]]:
    """Runs of rows that leave a gutter free, from the first to the last that has something on its right."""
    keyed = groupby(enumerate(rows), key=lambda item: not any(_crosses(part, gutter) for part in item[1]))
    for is_free, run in keyed:
        places = [place for place, _ in run]
        right = [place for place in places if any(part.left > gutter for part in rows[place])]
        if is_free and right:
            yield right[0], places[-1] + 1


def _crosses(part: Line, gutter: float) -> bool:
    space = GUTTER_EM * part.words[0].height
    return part.left < gutter and part.right > gutter - space


def _is_prose(rows: Sequence[list[Line]], gutter: float) -> bool:
    """Whether both sides of a gutter are lines of running text, and not a table's columns."""
    for is_left in (True, False):
        own = [[part for part in row if (part.right <= gutter) is is_left] for row in rows]
        texts = [" ".join(part.text for part in row) for row in own if row]
        if len(texts) < MIN_LINES or sum(map(_width, texts)) < MIN_CHARS * len(texts):
            return False
    return True


def _width(text: str) -> int:
    """Characters, those of double width counted twice."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def _words_of(rows: Iterable[list[Line]]) -> list[Word]:
    return [word for row in rows for part in row for word in part.words]


def _same_baseline(before: Word, word: Word) -> bool:
    return abs(before.bottom - word.bottom) < 0.35 * min(before.height, word.height)
