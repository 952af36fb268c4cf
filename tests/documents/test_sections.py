"""The outline that sections are built from."""

import json
from dataclasses import replace

from app.documents.sections import Converted, Facts, Fault, Outline, markdown_table, title_from_name


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
    whole = replace(converted.with_facts(Facts(created="2026-01-02")), faults=(Fault("page-2", "it is blank"),))
    assert Converted.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_a_heading_with_nothing_below_it_is_text_of_the_one_above():
    converted = build((0, "T"), (1, "Empty"), (1, "A"), (2, "B"), "b", (2, "Last"))
    assert [(part.heading_path, part.text) for part in converted.sections] == [
        (("T",), "Empty"),
        (("T", "A", "B"), "b"),
        (("T", "A"), "Last"),
    ]


def test_pages_are_known_by_place():
    outline = Outline(title="T")
    for text, page in (("one", 1), ("two", 1), ("three", 2), ("four", 4)):
        outline.block(text, page=page)
    section = outline.finish(fallback_title="").sections[0]
    assert section.pages == ((0, 1), (10, 2), (17, 4))
    assert [section.page_at(section.text.index(word)) for word in ("one", "two", "three", "four")] == [1, 1, 2, 4]
