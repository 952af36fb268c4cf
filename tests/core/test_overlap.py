"""What rows share with a suite: the same question and answer, or a run of words."""

import pytest

from app.core.overlap import Overlap

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
ROWS = [{"question": "Who chairs the board?", "answer": "Ruth", "answers": ["Ruth", "R. C."]}, {"question": LONG}]


@pytest.mark.parametrize(
    ("row", "shared"),
    [
        ({"question": "who chairs: the board", "answer": "RUTH"}, "question and answer"),
        ({"question": "Who chairs the board?", "answers": ["R C"]}, "question and answer"),
        ({"question": "Who chairs the board?", "answer": "Jane"}, ""),
        ({"question": f"zero {LONG}, fourteen", "answer": "x"}, "run of words"),
        ({"question": LONG.removesuffix(" thirteen"), "answer": "x"}, ""),
    ],
)
def test_shared(row, shared):
    assert Overlap(ROWS).shared_with(row) == shared


def test_running_text_and_shorter_runs():
    assert Overlap(ROWS).shared_with_text(f"It goes {LONG}.") == "run of words"
    assert Overlap(ROWS).shared_with_text("Ruth chairs the board.") == ""
    assert Overlap(ROWS, n=3).shared_with_text("she chairs the board") == "run of words"
