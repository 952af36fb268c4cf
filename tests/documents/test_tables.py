"""Ruled tables: borders, merged and open cells, bands cut into rows; drawings and pieces stay as they were."""

import random

import pytest

from app.documents.columns import Word
from app.documents.layout import read_layout
from app.documents.tables import Shape, rules_of, with_tables

BOX = (100.0, 100.0, 400.0, 160.0)
Lines = list[tuple[float, float, float, float]]


def word(text: str, left: float, top: float, *, upright: bool = True) -> Word:
    width, height = (5.0 * len(text), 10.0) if upright else (10.0, 5.0 * len(text))
    return Word(text, left, top, left + width, top + height, "body", upright)


def strokes(lines: Lines) -> list[Shape]:
    return [Shape([(x0, y0), (x1, y1)]) for x0, y0, x1, y1 in lines]


def grid(xs: list[float], ys: list[float]) -> Lines:
    """Lines through all of the given places."""
    return [(xs[0], y, xs[-1], y) for y in ys] + [(x, ys[0], x, ys[-1]) for x in xs]


def tables(words: list[Word], lines: Lines) -> list[tuple[tuple[str, ...], ...]]:
    return [each.rows for each in with_tables(words, strokes(lines)) if each.rows]


def cells(
    rows: list[list[str]], *, left: float = 105, top: float = 105, width: float = 100, height: float = 20
) -> list[Word]:
    return [
        word(
            part, left + width * column + 5.0 * sum(len(each) + 1 for each in cell.split()[:place]), top + height * row
        )
        for row, line in enumerate(rows)
        for column, cell in enumerate(line)
        for place, part in enumerate(cell.split())
    ]


ROWS = [["Fee", "Amount", "Due"], ["Annual fee", "12 euros", "May"], ["Card", "free", ""]]
XS, YS = [100.0, 200.0, 300.0, 400.0], [100.0, 120.0, 140.0, 160.0]


@pytest.mark.parametrize("form", ["strokes", "thin boxes", "a box for each cell"])
def test_a_ruled_table_is_read_cell_by_cell_however_its_lines_are_drawn(form: str):
    shapes = strokes(grid(XS, YS))
    if form == "thin boxes":
        shapes = [box(x0 - 0.5, y0 - 0.5, x1 + 0.5, y1 + 0.5) for x0, y0, x1, y1 in grid(XS, YS)]
    elif form == "a box for each cell":
        shapes = [box(x, y, x + 100, y + 20) for x in XS[:-1] for y in YS[:-1]]
    outside = word("outside", 105, 300)
    found = with_tables([*cells(ROWS), outside], shapes)
    assert [each.rows for each in found] == [(), tuple(map(tuple, ROWS))]
    assert found[0] == outside


def box(x0: float, y0: float, x1: float, y1: float, *, is_light: bool = False) -> Shape:
    return Shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], is_light)


def test_shading_draws_no_table():
    shapes = [box(x, y, x + 100, y + 20, is_light=True) for x in XS[:-1] for y in YS[:-1]]
    assert rules_of(shapes) == ([], [])
    assert with_tables(cells(ROWS), shapes) == cells(ROWS)


def test_a_merged_cell_says_its_text_in_each_row_and_a_heading_in_each_column():
    lines = grid(XS, YS)
    lines.remove((200.0, 100.0, 200.0, 160.0))
    lines.remove((100.0, 140.0, 400.0, 140.0))
    lines += [(200.0, 120.0, 200.0, 160.0), (200.0, 140.0, 400.0, 140.0)]
    words = [*cells([["Both", "", "Due"], ["", "12 euros", "May"], ["", "free", "June"]]), word("Kind", 105, 134)]
    assert tables(words, lines) == [(("Both", "Both", "Due"), ("Kind", "12 euros", "May"), ("Kind", "free", "June"))]


def test_a_table_open_at_its_sides_is_whole():
    lines = [(100.0, y, 400.0, y) for y in YS] + [(x, 100.0, x, 160.0) for x in XS[1:-1]]
    assert tables(cells(ROWS), lines) == [tuple(map(tuple, ROWS))]


def test_what_is_around_a_table_in_a_frame_stays_outside():
    frame = [(50.0, 50.0, 550.0, 50.0), (550.0, 50.0, 550.0, 160.0)]
    words = [*cells(ROWS), word("above", 300, 70), word("beside", 480, 130)]
    found = with_tables(words, strokes([*grid(XS, YS), *frame, (100.0, 50.0, 100.0, 100.0)]))
    assert [each.text for each in found if not each.rows] == ["above", "beside"]
    assert [each.rows for each in found if each.rows] == [tuple(map(tuple, ROWS))]


def test_bands_without_lines_between_rows_are_cut_and_wrapped_cells_are_not():
    lines = grid([100.0, 200.0, 300.0], [100.0, 120.0, 200.0])
    words = cells([["Fee", "Amount"], ["Annual", "12"], ["", "euros"], ["Card", "free"]])
    assert tables(words, lines) == [(("Fee", "Amount"), ("Annual", "12 euros"), ("Card", "free"))]
    wrapped = cells([["Fee", "Rule"], ["Annual", "every member"], ["", "pays it once"], ["Card", "it is free"]])
    ruled = grid([100.0, 200.0, 300.0], [100.0, 120.0, 160.0, 180.0])
    assert tables(wrapped, ruled)[0][1] == ("Annual", "every member pays it once")
    stacked = cells([["Fee", "Amount"], *([f"fee{n}", str(n)] for n in range(5))])
    ruled = grid([100.0, 200.0, 300.0], [100.0, 120.0, 220.0, 240.0, 260.0])
    assert [row for row in tables([*stacked, *cells([["a", "b"]], top=225)], ruled)[0]][1:3] == [
        ("fee0", "0"),
        ("fee1", "1"),
    ]


def test_words_set_sideways_are_read_upwards():
    rows = [["Fee", "", "Due"], *ROWS[1:]]
    ys = [40.0, 120.0, 140.0, 160.0]
    sideways = [word("per", 210, 90, upright=False), word("year", 210, 60, upright=False)]
    assert tables([*cells(rows), *sideways], grid(XS, ys))[0][0] == ("Fee", "per year", "Due")


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (cells([["only", "one row", "here"]]), grid(XS, YS[:2])),
        (cells([["a"], ["b"], ["c"]]), grid(XS[:2], YS)),
        (cells([["few", "", ""], ["", "", ""], ["", "", "words"]]), grid(XS, YS)),
        ([word("a sentence that runs across lines", 150, top) for top in (105, 125, 145)], grid(XS, YS)),
        (cells(ROWS), [(100.0, y, 400.0, y) for y in YS]),
        (cells([["x" * 50, "y"], ["z", "x" * 1001], ["a", "b"]], width=300), grid([100.0, 400.0, 9000.0], YS)),
    ],
    ids=["one row", "one column", "mostly empty", "words across", "no lines down", "frames around running text"],
)
def test_what_is_no_table_stays_as_it_was(words: list[Word], lines: Lines):
    assert with_tables(words, strokes(lines)) == words


def test_pieces_of_a_table_side_by_side_stay_as_they_were():
    pieces = [*grid([100.0, 150.0, 200.0], YS), *grid([300.0, 350.0, 400.0], YS)]
    words = [*cells([["a", "b"]] * 3, width=50), *cells([["c", "d"]] * 3, left=305, width=50)]
    assert with_tables(words, strokes(pieces)) == words
    assert len(tables([*words[:6]], grid([100.0, 150.0, 200.0], YS))) == 1


def test_a_page_of_very_many_lines_is_a_drawing():
    assert tables(cells(ROWS), [*grid(XS, YS), *((700.0, 20.0 * n, 750.0, 20.0 * n) for n in range(700))]) == []


def test_a_table_stands_where_it_begins_and_its_text_is_no_heading():
    words = [*cells(ROWS), *(word(part, 105 + 40 * n, 60) for n, part in enumerate(["Some", "text", "before", "it."]))]
    after = [word(part, 105 + 40 * n, 200) for n, part in enumerate(["And", "some", "after", "it."])]
    converted = read_layout([with_tables([*words, *after], strokes(grid(XS, YS)))], fallback_title="file")
    blocks = converted.sections[0].text.split("\n\n")
    assert [blocks[0], blocks[2]] == ["Some text before it.", "And some after it."]
    assert blocks[1].split("\n")[2] == "| Annual fee | 12 euros | May |"


@pytest.mark.parametrize("seed", range(60))
def test_no_word_is_lost_whatever_is_drawn(seed: int):
    rng = random.Random(seed)
    xs, ys = [20.0 * n for n in range(12)], [12.0 * n for n in range(40)]
    shapes = []
    for _ in range(rng.randint(1, 60)):
        left, right = sorted(rng.choices(xs, k=2))
        top, bottom = sorted(rng.choices(ys, k=2))
        shapes.append(
            rng.choice(
                [
                    Shape([(left, top), (right, top)]),
                    Shape([(left, top), (left, bottom)]),
                    box(left, top, right, bottom, is_light=rng.random() < 0.3),
                    Shape([(rng.random() * 300, rng.random() * 500) for _ in range(rng.randint(1, 5))]),
                ]
            )
        )
    words = [
        word(f"w{n}", rng.random() * 240, rng.random() * 480, upright=rng.random() < 0.9)
        for n in range(rng.randint(0, 150))
    ]
    found = with_tables(words, shapes)
    said = {part for each in found for row in each.rows for cell in row for part in cell.split()}
    assert said | {each.text for each in found if not each.rows} == {each.text for each in words}
