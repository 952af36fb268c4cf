"""Chunking: nothing lost, nothing too long, tables whole or with their header again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.documents.chunk import chunk_sections
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
