"""The tables of a PDF's page that are drawn with ruling lines, and the words that stand in their cells. Pure.

How: every thin box, edge of a box and straight stroke is a ruling line, but not what is filled in a light colour, which
is the shading of a cell; lines on one axis that meet are one. Lines that cross or touch make a grid. Between two
neighbouring cells of the grid there is a border where a line covers the middle of their common edge, or where the lines
beside it end; else they are one merged cell. Words belong to the cell that their centre is in. A band whose columns
have short text in the same lines is cut into rows at these, and in a grid of fewer than three bands (a line below the
header, no more) where the first column begins anew. What has fewer than two rows and columns with text, or mostly empty
cells, or words across its lines, is a drawing, and what stands beside another grid is a piece of a table whose lines
are not whole; both stay as they were. Tables without lines down are left to layout.py, which goes by gaps.

Guarantees: every word given is in one table or among the words left; a merged cell says its text in each row that it
covers, one of the header's in each column, too. Not guaranteed: nested tables; cells told apart by colour alone.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from app.documents.columns import Line, Word, page_lines
from app.documents.sections import one_line

MAX_SHAPES = 5_000
MAX_RULES = 600
MAX_CELLS = 4_000
THIN_PT = 3.0
TOUCH_PT = 3.0
SAME_PT = 4.0
LEAST_RULE_PT = 6.0
MIN_FILLED = 0.5
MIN_RULED = 0.7
MAX_CROSSING = 0.1
RULED_BANDS = 3
MIN_STACKED = 4
MAX_STACKED_CHARS = 20
MIN_CELLS = 4
MAX_CELL_CHARS = 1_000

Point = tuple[float, float]
Cell = tuple[int, int]
NOWHERE: Cell = (-1, -1)


@dataclass(frozen=True)
class Shape:
    """What is drawn on a page by its corners, in points from the top left; ``is_light`` where it would be filled so."""

    points: Sequence[Point]
    is_light: bool = False


@dataclass(frozen=True)
class Rule:
    """A ruling line at ``place`` on one axis, from ``start`` to ``end`` on the other, in points."""

    place: float
    start: float
    end: float

    def covers(self, value: float, *, slack: float = 0.0) -> bool:
        """Whether the line is drawn at a place along it."""
        return self.start - slack <= value <= self.end + slack


@dataclass(frozen=True)
class Grid:
    """Edges of columns and rows, from left to right and top to bottom, and the lines between them."""

    xs: list[float]
    ys: list[float]
    across: list[Rule]
    down: list[Rule]

    def cell_of(self, word: Word) -> Cell | None:
        """Row and column of a word's centre, None outside."""
        x, y = (word.left + word.right) / 2, (word.top + word.bottom) / 2
        row, column = bisect_right(self.ys, y) - 1, bisect_right(self.xs, x) - 1
        inside = 0 <= row < len(self.ys) - 1 and 0 <= column < len(self.xs) - 1
        return (row, column) if inside else None


def with_tables(words: Sequence[Word], shapes: Sequence[Shape]) -> list[Word]:
    """The words of a page, those of each ruled table replaced by one that holds its rows and stands where it begins."""
    if not words or not shapes or len(shapes) > MAX_SHAPES:
        return list(words)
    across, down = rules_of(shapes)
    if len(across) + len(down) > MAX_RULES:
        return list(words)
    left, grids = list(words), list(find_grids(across, down))
    for grid in grids:
        if any(_beside(grid, other) for other in grids if other is not grid):
            continue
        roots = _merged(grid)
        own = [word for word in left if not word.rows and grid.cell_of(word) in roots]
        rows = _rows(grid, roots, own) if own else []
        if rows:
            taken = set(map(id, own))
            left = [word for word in left if id(word) not in taken]
            left.append(_as_word(own, rows))
    return left


def rules_of(shapes: Iterable[Shape]) -> tuple[list[Rule], list[Rule]]:
    """The lines across and those down that shapes draw, joined where they go on."""
    across: list[Rule] = []
    down: list[Rule] = []
    for shape in shapes:
        for (x0, y0), (x1, y1) in _strokes(shape):
            if abs(y1 - y0) < 1.0 and abs(x1 - x0) >= LEAST_RULE_PT:
                across.append(Rule((y0 + y1) / 2, min(x0, x1), max(x0, x1)))
            elif abs(x1 - x0) < 1.0 and abs(y1 - y0) >= LEAST_RULE_PT:
                down.append(Rule((x0 + x1) / 2, min(y0, y1), max(y0, y1)))
    return _joined(across), _joined(down)


def find_grids(across: Sequence[Rule], down: Sequence[Rule]) -> Iterator[Grid]:
    """Grids of lines that touch each other, with at least two rows and two columns."""
    for rows, columns in _touching(across, down):
        xs = _distinct([*(rule.place for rule in columns), *(x for rule in rows for x in (rule.start, rule.end))])
        ys = _distinct([*(rule.place for rule in rows), *(y for rule in columns for y in (rule.start, rule.end))])
        if len(xs) > 2 and len(ys) > 2 and len(xs) * len(ys) <= MAX_CELLS:
            yield Grid(xs, ys, rows, columns)


def _strokes(shape: Shape) -> Iterator[tuple[Point, Point]]:
    """The straight pieces of a shape; a thin box is one stroke along its middle."""
    points = shape.points
    if shape.is_light and len(points) > 3:
        return
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    if len(points) in (4, 5) and min(width, height) < THIN_PT:
        x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        yield ((min(xs), y), (max(xs), y)) if width > height else ((x, min(ys)), (x, max(ys)))
        return
    yield from pairwise(points)


def _joined(rules: Iterable[Rule]) -> list[Rule]:
    """Lines at one place that touch or overlap, as one."""
    joined: list[Rule] = []
    for rule in sorted(rules, key=lambda rule: (round(rule.place), rule.start)):
        near = [n for n, each in enumerate(joined[-8:], start=max(0, len(joined) - 8)) if _goes_on(each, rule)]
        if near:
            each = joined[near[-1]]
            joined[near[-1]] = Rule(each.place, min(each.start, rule.start), max(each.end, rule.end))
        else:
            joined.append(rule)
    return joined


def _goes_on(rule: Rule, other: Rule) -> bool:
    return abs(rule.place - other.place) <= THIN_PT / 2 and other.start <= rule.end + TOUCH_PT


def _touching(across: Sequence[Rule], down: Sequence[Rule]) -> Iterator[tuple[list[Rule], list[Rule]]]:
    """Groups of lines across and down that hang together."""
    free_across, free_down = list(across), list(down)
    while free_across:
        rows, columns, waiting = [free_across.pop()], list[Rule](), True
        while waiting:
            new_columns = [rule for rule in free_down if any(_meet(row, rule) for row in rows)]
            free_down = [rule for rule in free_down if rule not in new_columns]
            columns += new_columns
            new_rows = [row for row in free_across if any(_meet(row, rule) for rule in columns)]
            free_across = [row for row in free_across if row not in new_rows]
            rows += new_rows
            waiting = bool(new_columns or new_rows)
        if columns:
            yield rows, columns


def _meet(row: Rule, column: Rule) -> bool:
    return row.covers(column.place, slack=TOUCH_PT) and column.covers(row.place, slack=TOUCH_PT)


def _distinct(places: Iterable[float]) -> list[float]:
    """Places in order, those nearer than ``SAME_PT`` as one."""
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place - kept[-1] > SAME_PT:
            kept.append(place)
    return kept


def _beside(grid: Grid, other: Grid) -> bool:
    """Whether two grids stand side by side for most of the height of one."""
    overlap = min(grid.ys[-1], other.ys[-1]) - max(grid.ys[0], other.ys[0])
    apart = grid.xs[-1] <= other.xs[0] + SAME_PT or other.xs[-1] <= grid.xs[0] + SAME_PT
    return apart and overlap > min(grid.ys[-1] - grid.ys[0], other.ys[-1] - other.ys[0]) / 2


def _rows(grid: Grid, roots: dict[Cell, Cell], words: Sequence[Word]) -> list[tuple[str, ...]]:
    """The cells' texts by row, without empty rows and columns; nothing where the grid is no table."""
    held: dict[Cell, list[Word]] = {}
    for word in words:
        held.setdefault(roots[grid.cell_of(word) or (0, 0)], []).append(word)
    crossing = sum(_crosses(grid, roots, word) for word in words)
    longest = max(sum(len(word.text) for word in own) for own in held.values())
    if len(held) < max(MIN_CELLS, MIN_FILLED * len(set(roots.values()))) or longest > MAX_CELL_CHARS:
        return []
    if crossing > MAX_CROSSING * len(words):
        return []
    table = [row for row in _split_bands(grid, roots, held) if any(row)]
    filled = [n for n in range(len(grid.xs) - 1) if any(row[n] for row in table)]
    if len(table) < 2 or len(filled) < 2 or max(sum(bool(row[n]) for n in filled) for row in table) < 2:
        return []
    return [tuple(row[n] for n in filled) for row in table]


def _merged(grid: Grid) -> dict[Cell, Cell]:
    """Each cell of the grid, with the top left one of the merged cell that it is part of.

    Cells that merge to something other than a rectangle between lines are left out: they are what is around a table.
    """
    roots = {(row, column): (row, column) for row in range(len(grid.ys) - 1) for column in range(len(grid.xs) - 1)}

    def root(cell: Cell) -> Cell:
        while roots[cell] != cell:
            cell = roots[cell]
        return cell

    for row, column in sorted(roots):
        for other in ((row, column + 1), (row + 1, column)):
            if other in roots and not _is_border(grid, (row, column), other):
                first, last = sorted((root((row, column)), root(other)))
                roots[last] = first
    found: dict[Cell, list[Cell]] = {}
    for cell in roots:
        found.setdefault(root(cell), []).append(cell)
    return {cell: first for first, cells in found.items() if _is_drawn(grid, cells) for cell in cells}


def _is_drawn(grid: Grid, cells: Sequence[Cell]) -> bool:
    """Whether cells are a rectangle between two lines across, or two lines down."""
    (top, left), (bottom, right) = min(cells), max(cells)
    if len(cells) != (bottom - top + 1) * (right - left + 1):
        return False
    rows, columns = range(top, bottom + 1), range(left, right + 1)
    across = [_share(grid.across, grid.ys[edge], grid.xs, columns) for edge in (top, bottom + 1)]
    down = [_share(grid.down, grid.xs[edge], grid.ys, rows) for edge in (left, right + 1)]
    return max(min(across), min(down)) >= MIN_RULED


def _share(rules: Iterable[Rule], place: float, edges: Sequence[float], numbers: range) -> float:
    """How much of an edge of several cells is ruled, from 0 to 1."""
    ruled = [number for number in numbers if _is_ruled(rules, place, _middle(edges, number))]
    length = edges[numbers.stop] - edges[numbers.start]
    return sum(edges[number + 1] - edges[number] for number in ruled) / length


def _is_border(grid: Grid, cell: Cell, other: Cell) -> bool:
    """Whether a line runs between a cell and the one right of it or below it, or those around it all end there."""
    axis = 0 if cell[0] == other[0] else 1
    rules, sides = (grid.down, grid.across) if axis == 0 else (grid.across, grid.down)
    edges, along = (grid.xs, grid.ys) if axis == 0 else (grid.ys, grid.xs)
    place, lane = other[1 - axis], cell[axis]
    if _is_ruled(rules, edges[place], _middle(along, lane)):
        return True
    mine, its = (
        any(_is_ruled(sides, along[side], _middle(edges, number)) for side in (lane, lane + 1))
        for number in (place - 1, place)
    )
    return mine != its


def _middle(edges: Sequence[float], place: int) -> float:
    return (edges[place] + edges[place + 1]) / 2


def _is_ruled(rules: Iterable[Rule], place: float, along: float) -> bool:
    return any(abs(rule.place - place) <= SAME_PT and rule.covers(along) for rule in rules)


def _crosses(grid: Grid, roots: dict[Cell, Cell], word: Word) -> bool:
    """Whether a word stands in two cells."""
    y, inset = (word.top + word.bottom) / 2, 0.2 * (word.right - word.left)
    ends = [grid.cell_of(Word("", x, y, x, y)) for x in (word.left + inset, word.right - inset)]
    return len({roots.get(cell) if cell else None for cell in ends}) > 1


def _texts(grid: Grid, roots: dict[Cell, Cell], held: dict[Cell, list[Word]]) -> list[list[str]]:
    """A row for each band between two lines."""
    texts = {cell: _text(words) for cell, words in held.items()}
    columns = range(len(grid.xs) - 1)
    firsts = [[roots.get((row, column), NOWHERE) for column in columns] for row in range(len(grid.ys) - 1)]
    rows = [[texts.get(first, "") for first in row] for row in firsts]
    header = next((number for number, row in enumerate(rows) if any(row)), 0)
    for number, own in enumerate(firsts):
        if number > header or len(set(own)) == 1:
            rows[number] = [cell if own.index(own[n]) == n else "" for n, cell in enumerate(rows[number])]
    return rows


def _split_bands(grid: Grid, roots: dict[Cell, Cell], held: dict[Cell, list[Word]]) -> list[list[str]]:
    """The rows of a grid, its bands cut into several where they are not ruled."""
    rows: list[list[str]] = []
    ruled = _texts(grid, roots, held)
    for band, whole in enumerate(ruled):
        own = {cell: words for cell, words in held.items() if cell[0] == band}
        places = {id(word): cell[1] for cell, words in own.items() for word in words}
        lines = page_lines([word for words in own.values() for word in words], page=0)
        cells = [_cells(line, places, width=len(whole)) for line in lines]
        if _is_stacked(cells):
            rows += cells
        elif len(ruled) < RULED_BANDS:
            rows += _begun_anew(cells)
        else:
            rows.append(whole)
    return rows


def _is_stacked(lines: Sequence[list[str]]) -> bool:
    """Whether most columns have text in most of the lines of a band, as rows have, and none of it is running text."""
    columns = [column for column in zip(*lines, strict=True) if any(column)]
    longest = max((sum(map(len, column)) / sum(map(bool, column)) for column in columns[1:]), default=0.0)
    full = sum(3 * sum(map(bool, column)) >= 2 * len(lines) for column in columns)
    return len(lines) >= MIN_STACKED and full >= 2 and 3 * full >= 2 * len(columns) and longest <= MAX_STACKED_CHARS


def _begun_anew(lines: Iterable[list[str]]) -> list[list[str]]:
    """Rows from lines: one begins where its first column and another do."""
    rows: list[list[str]] = []
    for cells in lines:
        first = next((n for n, cell in enumerate(rows[0] if rows else cells) if cell), 0)
        if not rows or (cells[first] and sum(map(bool, cells)) > 1):
            rows.append(cells)
        else:
            rows[-1] = [one_line(f"{above} {cell}") for above, cell in zip(rows[-1], cells, strict=True)]
    return rows


def _cells(line: Line, places: dict[int, int], *, width: int) -> list[str]:
    cells = [""] * width
    for word in line.words:
        cells[places[id(word)]] = one_line(f"{cells[places[id(word)]]} {word.text}")
    return cells


def _text(words: Sequence[Word]) -> str:
    """The words of a cell, line by line; those set sideways run upwards."""
    upright = [line.text for line in page_lines([word for word in words if word.upright], page=0)]
    sideways = sorted((word for word in words if not word.upright), key=lambda word: (round(word.left), -word.bottom))
    return one_line(" ".join([*upright, *(word.text for word in sideways)]))


def _as_word(words: Sequence[Word], rows: Sequence[tuple[str, ...]]) -> Word:
    """What stands for a table among the words of its page, one line high."""
    text = " ".join(cell for row in rows for cell in row if cell)
    top, height = min(word.top for word in words), median(word.height for word in words)
    left, right = min(word.left for word in words), max(word.right for word in words)
    return Word(text, left, top, right, top + height, rows=tuple(rows))
