"""The outline that sections are built from."""

from app.documents.sections import Converted, Outline, markdown_table, title_from_name


def build(*steps: tuple[int, str] | str) -> Converted:
    outline = Outline()
    for step in steps:
        if isinstance(step, str):
            outline.block(step)
        else:
            outline.heading(step[1], level=step[0])
    return outline.finish(fallback_title="file")


def paths(converted: Converted) -> list[tuple[str, ...]]:
    return [section.heading_path for section in converted.sections]


def test_headings_nest_and_close_by_level():
    converted = build((0, "T"), "a", (1, "A"), (2, "B"), "b", (1, "C"), "c")
    assert paths(converted) == [("T",), ("T", "A", "B"), ("T", "C")]


def test_a_second_title_is_a_section_of_the_first():
    assert paths(build((0, "Deck"), "a", (0, "Slide"), "b")) == [("Deck",), ("Deck", "Slide")]


def test_sections_of_one_path_are_put_together():
    assert [section.text for section in build((0, "T"), "a", (0, "S"), "b", (0, "S"), "c").sections] == ["a", "b\n\nc"]


def test_a_document_of_headings_only_keeps_them_as_text():
    assert build((0, "Deck"), (0, "Thanks")).sections[0].text == "Deck\n\nThanks"


def test_the_file_name_is_the_last_resort_for_a_title():
    assert build("text").title == "file"
    assert build((1, "Only heading"), "text").title == "Only heading"
    assert title_from_name("a/b/annual_report-2026.final.pdf") == "Annual report 2026"


def test_tables_are_padded_and_escaped():
    assert markdown_table([["a", "b"], ["x|y"], ["", ""]]) == "| a | b |\n| --- | --- |\n| x\\|y |  |"


def test_json_and_back():
    converted = build((0, "T"), "a")
    assert Converted.from_json(converted.to_json()) == converted
