"""Chunking: nothing lost, nothing too long, tables whole or with their header again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.documents.chunk import chunk_sections, cut_sections
from app.documents.sections import Section
from app.documents.settings import ChunkSettings

HEADER = "| Account | Fee |\n| --- | --- |"


def words(text: str) -> int:
    return len(text.split())


def cut(text: str, **settings: int) -> list[str]:
    chosen = ChunkSettings(**{"max_table_tokens": settings.get("max_tokens", 192), **settings})
    return [chunk.text for chunk in chunk_sections([Section(("T",), text)], settings=chosen, count_tokens=words)]


def test_small_blocks_share_a_chunk_and_sections_never_do():
    sections = [Section(("T", "A"), "one two\n\nthree"), Section(("T", "B"), "four")]
    chunks = list(chunk_sections(sections, settings=ChunkSettings(), count_tokens=words))
    assert [(chunk.heading_path, chunk.ordinal, chunk.text) for chunk in chunks] == [
        (("T", "A"), 0, "one two\n\nthree"),
        (("T", "B"), 1, "four"),
    ]


def test_a_table_that_is_cut_repeats_its_header_and_keeps_its_rows_whole():
    rows = [f"| Harbour Account number {n} | {n} euros |" for n in range(20)]
    chunks = cut("\n".join([HEADER, *rows]), max_tokens=40)
    assert len(chunks) > 3
    assert all(chunk.startswith(HEADER + "\n") for chunk in chunks)
    assert [line for chunk in chunks for line in chunk.split("\n")[2:]] == rows


def test_a_row_longer_than_the_limit_is_not_cut():
    row = "| " + "word " * 50 + "| x |"
    assert cut(f"{HEADER}\n{row}\n| a | b |", max_tokens=20) == [f"{HEADER}\n{row}", f"{HEADER}\n| a | b |"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two three. Four five six. Seven eight.", ["One two three.", "Four five six.", "Seven eight."]),
        ("- one two three\n- four five\n- six", ["- one two three", "- four five", "- six"]),
        ("a b c d e f g h", ["a b c d", "e f g h"]),
    ],
    ids=["sentences", "list items", "words"],
)
def test_text_is_cut_at_the_largest_joint_that_fits(text: str, expected: list[str]):
    assert cut(text, max_tokens=4) == expected


def test_overlap_repeats_the_end_of_the_chunk_before():
    text = " ".join(f"Sentence number {n}." for n in range(12))
    plain, lapped = cut(text, max_tokens=9), cut(text, max_tokens=9, overlap_tokens=3)
    assert all(not after.startswith(before.rsplit("Sent", 1)[1]) for before, after in pairwise(plain))
    assert all(after.startswith("Sent" + before.rsplit("Sent", 1)[1]) for before, after in pairwise(lapped))


@given(st.lists(st.text(alphabet="ab. \n|-", max_size=40), max_size=8), st.integers(1, 12))
def test_no_word_is_lost_and_no_text_chunk_is_too_long(parts: list[str], limit: int):
    text = "\n\n".join(part.replace("|", "") for part in parts)
    chunks = cut(text, max_tokens=limit)
    assert " ".join(chunks).split() == text.split()
    assert all(words(chunk) <= limit for chunk in chunks)


def test_overlap_must_be_smaller_than_the_chunk():
    with pytest.raises(ValueError, match="overlap_tokens must be smaller"):
        ChunkSettings(max_tokens=10, overlap_tokens=10)


BLOCKS = st.one_of(
    st.text(alphabet="ab. \n-", max_size=60),
    st.integers(0, 9).map(lambda n: "\n".join([HEADER, *(f"| account {k} | {k} euros |" for k in range(n))])),
)


@given(st.lists(st.lists(BLOCKS, max_size=5), max_size=4), st.integers(2, 30), st.integers(0, 1), st.integers(4, 60))
def test_every_chunk_is_found_again_in_the_documents_text(
    sections: list[list[str]], limit: int, overlap: int, parent_tokens: int
):
    made = [Section(("T", str(number)), "\n\n".join(blocks).strip()) for number, blocks in enumerate(sections)]
    settings = ChunkSettings(
        max_tokens=limit, max_table_tokens=limit, overlap_tokens=overlap, parent_tokens=parent_tokens
    )
    parents = list(cut_sections(made, settings=settings, count_tokens=words))
    text = "\n\n".join(parent.text for parent in parents)
    assert " ".join(text.split()) == " ".join(" ".join(part.text.split()) for part in made if part.text.split())
    assert all(text[parent.char_start : parent.char_end] == parent.text for parent in parents)
    for parent in parents:
        for chunk in parent.chunks:
            own = text[chunk.char_start : chunk.char_end]
            header = "" if chunk.header_start is None else text[chunk.header_start : chunk.header_end] + "\n"
            assert chunk.text == header + own
            assert parent.char_start <= chunk.char_start < chunk.char_end <= parent.char_end


def test_parents_hold_whole_blocks_and_a_short_section_is_one():
    long = "\n\n".join(f"Paragraph {n} says a few words." for n in range(30))
    sections = [Section(("T",), "Short."), Section(("T", "A"), long)]
    settings = ChunkSettings(parent_tokens=60, max_tokens=20)
    parents = list(cut_sections(sections, settings=settings, count_tokens=words))
    assert [parent.text for parent in parents[:1]] == ["Short."]
    assert [words(parent.text) for parent in parents[1:]] == [60, 60, 60]
    assert [chunk.ordinal for parent in parents for chunk in parent.chunks] == list(range(len(parents[1:]) * 4 - 1 + 2))


def test_a_chunk_knows_its_pages():
    section = Section(("T",), "one two\n\nthree four\n\nfive", ((0, 3), (9, 4), (21, 6)))
    settings = ChunkSettings(max_tokens=4, max_table_tokens=4)
    chunks = list(chunk_sections([section], settings=settings, count_tokens=words))
    assert [(chunk.text, chunk.page_start, chunk.page_end) for chunk in chunks] == [
        ("one two\n\nthree four", 3, 4),
        ("five", 6, 6),
    ]
