"""The command that evaluates: what it asks, what it compares, and which questions it refuses."""

import json
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from app.core.parquet import write_rows
from app.evaluation.schema import ROWS
from app.evaluation.suite import BadQuestions
from app.inference.passages import identity_of
from app.registry.versions import VersionNotFound
from app.settings import SignalboxSettings
from jobs import evaluate as job_module
from jobs.common import Job

QUESTION = {"question": "What is the fee?", "answers": ["12 euros"]}
asked_with = []
"""What the last command had stand before the questions."""
OUTCOMES = {"old": [0.0, 1.0, 1.0] * 40, "new": [1.0, 1.0, 1.0] * 40}


@pytest.fixture
def run(registry, tmp_path, monkeypatch):
    """Calls the command; models of the names in OUTCOMES answer as these say."""

    @contextmanager
    def job(workspace, config):
        yield Job(registry.workspace, SignalboxSettings(), registry)

    def evaluate(model, suite, *, registry, settings, grounding):
        asked_with.append(grounding and grounding.identity)
        rows = [
            {**dict.fromkeys(ROWS.names), "question_id": str(number), "exact_match": outcome}
            for number, outcome in enumerate(OUTCOMES[model.name])
        ]
        folder = tmp_path / model.name
        folder.mkdir(exist_ok=True)
        write_rows(folder / "rows.parquet", rows, schema=ROWS)
        inputs = {"model": model.digest, "suite": suite.digest}
        return registry.publish("evaluation", f"{model.name}-{suite.name}", folder=folder, inputs=inputs)

    asked_with.clear()
    registry.publish("index", "handbook", inputs={})
    for name in OUTCOMES:
        registry.publish("model", name, inputs={"name": name})
    monkeypatch.setattr(job_module, "job", job)
    monkeypatch.setattr(job_module, "evaluate", evaluate)
    return lambda *arguments: CliRunner().invoke(job_module.app, [str(each) for each in arguments])


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(QUESTION) + "\n\n")
    return path


def test_a_comparison_comes_with_its_paired_interval(run, questions):
    done = run("--suite", "s", "--questions", questions, "--model", "new", "--against", "old", "--json")
    assert done.exit_code == 0, done.output
    change = json.loads(done.stdout)["exact_match_change"]
    assert change["from"] == "old-s@1"
    assert change["value"] == pytest.approx(1 / 3)
    assert 0.2 < change["low"] < 1 / 3 < change["high"] < 0.47


def test_both_models_are_given_the_same_passages(run, questions, registry):
    asked = ("--suite", "s", "--questions", questions, "--model", "new", "--against", "old", "--context-passages")
    done = run(*asked, 4)
    assert done.exit_code == 0, done.output
    assert asked_with == [identity_of(registry.get("index", "handbook").digest, 4)] * 2
    assert run(*asked, 21).exit_code == 2
    unknown = run(*asked, 4, "--index", "handbok")
    assert isinstance(unknown.exception, VersionNotFound)


def test_without_one_there_is_nothing_to_compare(run, questions):
    done = run("--suite", "s", "--questions", questions, "--model", "new", "--json")
    assert done.exit_code == 0, done.output
    assert asked_with == [None]
    assert "exact_match_change" not in json.loads(done.stdout)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"question": "What?"}', '{"answers": ["a"]}', '{"question": "What?", "answers": "a"}'],
)
def test_a_line_that_is_no_question_is_named(run, questions, line):
    questions.write_text(json.dumps(QUESTION) + "\n" + line + "\n")
    done = run("--suite", "s", "--questions", questions, "--model", "new")
    assert isinstance(done.exception, BadQuestions)
    assert ":2 needs" in str(done.exception)


def test_a_file_that_is_no_text_is_named(run, questions):
    questions.write_bytes(b"\xff\xfe\x00")
    done = run("--suite", "s", "--questions", questions, "--model", "new")
    assert isinstance(done.exception, BadQuestions)
    assert "not text in UTF-8" in str(done.exception)
