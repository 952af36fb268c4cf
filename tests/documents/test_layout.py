"""PDF layout: headings by size and font, tables by columns, furniture left out."""

import pytest

from app.documents.columns import Word, read_lines
from app.documents.layout import read_layout

TABLE = [("Item", "Amount"), ("Annual fee", "12 euros"), ("Card", "free")]


def line(text: str, *, top: float, left: float = 72, size: float = 10, font: str = "body") -> list[Word]:
    """Words set with half an em for a letter and a third for a space."""
    words = []
    for part in text.split():
        width = 0.5 * size * len(part)
        words.append(Word(part, left, top, left + width, top + size, font))
        left += width + 0.3 * size
    return words


def page(*lines: list[Word]) -> list[Word]:
    return [word for each in lines for word in each]


def table(rows: list[tuple[str, ...]], *, top: float) -> list[list[Word]]:
    return [
        line(cell, top=top + 18 * number, left=72 + 120 * column)
        for number, row in enumerate(rows)
        for column, cell in enumerate(row)
    ]


def read(*pages: list[Word]) -> list[tuple[tuple[str, ...], str]]:
    converted = read_layout(pages, fallback_title="file")
    return [(section.heading_path, section.text) for section in converted.sections]


def test_larger_lines_are_headings_and_lines_of_a_paragraph_are_joined():
    words = page(
        line("Harbour Account", top=50, size=18),
        line("Fees", top=90, size=13),
        line("Every member pays an annual fee for the hyphen-", top=110),
        line("ated account and nothing else besides that.", top=122),
        line("A second paragraph stands further below.", top=150),
    )
    assert read(words) == [
        (
            ("Harbour Account", "Fees"),
            "Every member pays an annual fee for the hyphenated account and nothing else besides that."
            "\n\nA second paragraph stands further below.",
        )
    ]


def test_a_line_alone_in_another_font_is_a_heading_and_a_bold_word_is_not():
    words = page(
        line("Closing an account", top=50, font="bold"),
        line("Members close accounts at any time and", top=70),
        [*line("Important", top=82, font="bold"), *line("only in person at a branch.", top=82, left=130)],
    )
    assert read(words) == [
        (("Closing an account",), "Members close accounts at any time and Important only in person at a branch.")
    ]


def test_columns_are_a_table_and_an_empty_cell_stays_empty():
    rows = [*TABLE, ("Letter", "")]
    words = page(line("Some text stands above the table of fees here.", top=50), *table(rows, top=80))
    assert read(words)[0][1].split("\n\n")[1].split("\n") == [
        "| Item | Amount |",
        "| --- | --- |",
        "| Annual fee | 12 euros |",
        "| Card | free |",
        "| Letter |  |",
    ]


def test_a_wrapped_cell_continues_its_row():
    words = page(*table(TABLE, top=80), line("for members", top=80 + 36 + 11, left=192))
    assert read(words)[0][1].endswith("| Card | free for members |")


def test_running_text_in_two_columns_is_read_column_by_column():
    left = [line(f"left column text of line number {n} x", top=50 + 12 * n) for n in range(6)]
    right = [line(f"right column text of line number {n} x", top=50 + 12 * n, left=330) for n in range(6)]
    text = read(page(*left, *right))[0][1]
    assert "|" not in text
    assert text.index("left column text of line number 5") < text.index("right column text of line number 0")


def test_headers_footers_and_page_numbers_are_left_out():
    pages = [
        page(
            line("Alderhaven Cooperative", top=20),
            *[line(f"Body text {word} of this page.", top=100 + 30 * n) for n, word in enumerate(words)],
            line(f"Page {number} of 3", top=800),
        )
        for number, words in enumerate((("one", "two"), ("three", "four"), ("five", "six")), start=1)
    ]
    text = "\n".join(part for _, part in read(*pages))
    assert "Alderhaven" not in text
    assert "Page" not in text
    assert text.count("Body text") == 6


def test_pages_of_one_repeated_line_are_kept():
    pages = [page(line(f"Document 1 page {number}", top=100)) for number in (1, 2, 3)]
    assert "page 2" in read(*pages)[0][1]


@pytest.mark.parametrize("pages", [[], [[]], [[Word(" ", 0, 0, 1, 1)]]])
def test_no_words_give_no_sections(pages: list[list[Word]]):
    assert read(*pages) == []


def test_bullets_become_list_items():
    words = page(line("\u2022 First thing", top=50), line("\u2022 Second thing", top=64))
    assert read(words)[0][1] == "- First thing\n- Second thing"


def test_columns_whose_lines_do_not_stand_level_are_read_one_after_another():
    top = line("A title that stands across both of the columns of the page", top=20, size=14)
    left = [line(f"left column text of line number {n} x", top=50 + 12 * n) for n in range(8)]
    right = [line(f"right column text of line number {n} x", top=56 + 13 * n, left=330) for n in range(7)]
    texts = [each.text for each in read_lines(page(top, *left, *right), page=0)]
    assert texts[0].startswith("A title")
    assert texts[1:9] == [f"left column text of line number {n} x" for n in range(8)]
    assert texts[9:] == [f"right column text of line number {n} x" for n in range(7)]


def test_a_table_of_short_cells_is_not_cut_into_columns():
    rows = [(f"Fee {n}", f"{n} euros") for n in range(12)]
    lines = read_lines(page(*table(rows, top=80)), page=0)
    assert [each.text for each in lines] == [f"Fee {n} {n} euros" for n in range(12)]


def test_lines_from_right_to_left_are_read_so():
    words = [Word(text, left, 10, left + 20, 20) for text, left in (("שלום", 130), ("עולם", 100))]
    assert read_lines(words, page=0)[0].text == "שלום עולם"


def test_words_set_sideways_come_last():
    sideways = Word("arXiv", 10, 100, 20, 200, "body", upright=False)
    lines = read_lines([sideways, *line("Some text of the page", top=150)], page=0)
    assert [each.text for each in lines] == ["Some text of the page", "arXiv"]


def test_bullets_that_stand_apart_make_a_list_and_prose_beside_a_number_no_table():
    bullets = page(
        *[line("r", top=50 + 14 * n) + line(f"Thing number {n}", top=50 + 14 * n, left=110) for n in range(3)]
    )
    assert read(bullets)[0][1] == "- Thing number 0\n- Thing number 1\n- Thing number 2"
    prose = page(
        line("A running head of the page", top=20) + line("9", top=20, left=500),
        *[line(f"Prose of the page that goes on in line {n} of it", top=34 + 12 * n) for n in range(5)],
    )
    assert "|" not in read(prose)[0][1]


def test_dots_that_lead_to_a_page_make_a_table_of_contents():
    words = page(
        line("Chapter 1. Fees . . . . . . . . . vii", top=50),
        line("1.1 Annual fee . . . . . . . . . 12", top=64),
        line("A sentence. It ends here.", top=90),
    )
    assert read(words)[0][1].split("\n\n")[0].split("\n") == [
        "| Chapter 1. Fees | vii |",
        "| --- | --- |",
        "| 1.1 Annual fee | 12 |",
    ]


@pytest.mark.parametrize(
    ("text", "is_heading"),
    [
        ("(2) Closing", True),
        ("2. Closing", True),
        ("Figure 2 Closing", False),
        ("Table A-1 Fees", False),
        ("- Fees", False),
    ],
)
def test_numbers_head_and_captions_and_bullets_do_not(text: str, is_heading: bool):
    words = page(line(text, top=50, font="bold"), line("Members close accounts at any time they want to.", top=70))
    assert (read(words)[0][0] == (text,)) is is_heading


def test_columns_of_which_one_is_nearly_empty_are_no_table():
    rows = [("Highlights", "First we say this"), *(("", f"and this in line {n}") for n in range(4))]
    words = page(*table(rows[:2], top=80), *[line(rows[n][1], top=98 + 12 * n, left=192) for n in range(2, 5)])
    assert read(words)
