"""Suites as versions."""

import json

import pytest

from app.core.parquet import read_rows
from app.evaluation.pipeline import NothingToCompare, evaluate
from app.evaluation.settings import EvaluationSettings
from app.evaluation.suite import BadQuestions, EmptySuite, commit_questions, publish_suite
from app.registry.tables import ROWS_FILE


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


def committed(registry, tmp_path, *lines):
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    suite = commit_questions(path, name="asked", registry=registry)
    rows = read_rows(registry.folder(suite) / ROWS_FILE)
    return {row["question"]: row for row in rows}, suite


def test_a_suite_for_an_index_names_what_answers(registry, tmp_path):
    by_source = {"question": "Fee?", "source": "fees.md"}
    rows, suite = committed(
        registry, tmp_path, by_source, {"question": "Who?", "chunk_id": "c1"}, {"question": "When?", "answers": ["May"]}
    )
    assert {name: (row["source"], row["chunk_id"], row["answers"]) for name, row in rows.items()} == {
        "Fee?": ("fees.md", "", []),
        "Who?": ("asked.jsonl", "c1", []),
        "When?": ("asked.jsonl", "", ["May"]),
    }
    none, _ = committed(registry, tmp_path, {"question": "When?", "answers": ["May"]})
    assert "chunk_id" not in none["When?"]
    assert none["When?"]["question_id"] == rows["When?"]["question_id"]
    _, suite = committed(registry, tmp_path, by_source)
    with pytest.raises(NothingToCompare, match="judges an index, by"):
        evaluate(None, suite, registry=registry, settings=EvaluationSettings(), answer=lambda asked: asked)


@pytest.mark.parametrize(
    "line", ["no json", {"question": "Fee?"}, {"source": "a"}, {"question": "?", "answers": "x"}, 7]
)
def test_a_line_that_is_no_question_is_named(registry, tmp_path, line):
    with pytest.raises(BadQuestions, match=r"asked.jsonl:1 needs `question` and a list `answers`, or the `source`"):
        committed(registry, tmp_path, line)
