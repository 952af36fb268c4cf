"""Outcomes and figures from answers."""

import pytest

from app.evaluation.judge import figures, judge
from app.evaluation.schema import ROWS
from app.evaluation.settings import EvaluationSettings

QUESTIONS = [
    {"question_id": "b", "question": "Fee?", "answers": ["12 euros"], "subject": "x"},
    {"question_id": "a", "question": "Chair?", "answers": ["Ruth Calder"], "subject": "y"},
]


def answer(question_id: str, text: str) -> dict:
    return {
        "question_id": question_id,
        "prediction": text,
        "confidence": 0.9,
        "num_tokens": 2,
        "finish_reason": "stop",
        "seconds": 0.5,
    }


def test_rows_are_sorted_and_complete():
    rows = judge(QUESTIONS, [answer("b", "12 euros"), answer("a", "Ruth Roth")])
    assert [row["question_id"] for row in rows] == ["a", "b"]
    assert [row["exact_match"] for row in rows] == [0.0, 1.0]
    assert [row["token_f1"] for row in rows] == [0.5, 1.0]
    assert all(name in row for row in rows for name in ROWS.names)


@pytest.mark.parametrize(
    "answers",
    [
        [answer("a", "x")],
        [answer("a", "x"), answer("b", "x"), answer("b", "x")],
        [answer("a", "x"), answer("b", "x"), answer("c", "x")],
    ],
    ids=["one missing", "one twice", "one too many"],
)
def test_every_question_is_answered_once(answers):
    with pytest.raises(ValueError, match="answered once"):
        judge(QUESTIONS, answers)


def test_figures():
    answers = [answer("b", "12 euros"), answer("a", "Ruth Roth")]
    facts = figures(judge(QUESTIONS, answers), answers, settings=EvaluationSettings())
    assert facts["exact_match"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert facts["num_rows"] == 2
    assert facts["tokens_per_s"] == pytest.approx(4.0)
    assert facts["seconds_per_question"] == pytest.approx(0.5)
