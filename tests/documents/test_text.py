"""Plain text: headings where they are plain to see, everything else text."""

from app.documents.text import convert_text


def sections(text: str, **options: str) -> list[tuple[tuple[str, ...], str]]:
    converted = convert_text(text, fallback_title="File", **options)
    return [(section.heading_path, section.text) for section in converted.sections]


def test_title_underlines_capitals_and_numbers_are_headings():
    text = (
        "Harbour Account\n===============\n\nIntro.\n\nFEES\n\n* Annual fee: 12\n  euros\n* Card: free\n\n"
        "1. Closing\n\nAny time."
    )
    assert sections(text) == [
        (("Harbour Account",), "Intro."),
        (("Harbour Account", "FEES"), "- Annual fee: 12 euros\n- Card: free"),
        (("Harbour Account", "1. Closing"), "Any time."),
    ]


def test_text_without_headings_is_one_section_under_the_file_name():
    assert sections("One line.\nAnother.\n\nMore, here.") == [(("File",), "One line. Another.\n\nMore, here.")]


def test_a_given_title_is_kept():
    assert sections("Key points\n\nText here.", title="Leukemia")[0][0] == ("Leukemia",)


def test_control_bytes_and_line_ends_do_not_matter():
    assert sections("\ufeffA b.\r\n\r\nC\x00 d.\f") == [(("File",), "A b.\n\nC d.")]
