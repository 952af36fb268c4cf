"""`signalbox suite commit`: the suite and its leaf, and lines that are no questions."""

import json

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.evaluation.suite import BadQuestions


@pytest.fixture
def commit(registry, tmp_path):
    def _commit(text, *words):
        path = tmp_path / "questions.jsonl"
        path.write_text(text)
        options = ["--name", "mine", "--workspace", str(registry.workspace.root)]
        return CliRunner().invoke(app, ["suite", "commit", str(path), *options, *words])

    return _commit


def test_a_suite_is_committed_once(commit, registry):
    text = json.dumps({"question": "What is the fee?", "answers": ["12 euros"]}) + "\n"
    first = json.loads(commit(text, "--json").stdout)
    assert (first["ref"], first["num_rows"]) == ("mine@1", 1)
    leaf = next(registry.ledger.leaves("suite"))
    assert (leaf.index, leaf.statement.subject) == (first["leaf"], first["digest"])
    assert commit(text).stdout.startswith(f"suite mine@1: 1 questions, leaf {leaf.index}, sha256:")


def test_a_line_that_is_no_question_is_named(commit):
    ended = commit('{"question": "What?"}\n')
    assert isinstance(ended.exception, BadQuestions)
    assert ":1 needs" in str(ended.exception)
