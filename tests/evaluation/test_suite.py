"""Suites as versions."""

import pytest

from app.evaluation.suite import EmptySuite, publish_suite


def row(question_id: str, answers: list[str]) -> dict:
    return {"question_id": question_id, "question": "Fee?", "answers": answers, "subject": "", "source": "x"}


def test_the_order_of_rows_does_not_matter(registry):
    one = publish_suite("s", [row("b", ["2"]), row("a", ["1"])], origin="test", registry=registry)
    other = publish_suite("s", [row("a", ["1"]), row("b", ["2"])], origin="test", registry=registry)
    assert one.digest == other.digest
    assert one.facts["num_rows"] == 2


def test_questions_without_an_answer_make_no_suite(registry):
    with pytest.raises(EmptySuite, match="at least one"):
        publish_suite("s", [row("a", [])], origin="test", registry=registry)
