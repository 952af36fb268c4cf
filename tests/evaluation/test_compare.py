"""Comparisons of two evaluations."""

from pathlib import Path

import pytest

from app.core.parquet import write_rows
from app.evaluation.compare import SuitesDiffer, compare
from app.evaluation.schema import ROWS
from app.evaluation.settings import EvaluationSettings


def publish(registry, folder: Path, name: str, outcomes: list[float], *, suite: str = "suite-1"):
    folder = folder / name
    folder.mkdir()
    blank = {"question": "q", "answers": ["a"], "subject": "", "prediction": "p", "confidence": None}
    blank |= {"num_tokens": 1, "finish_reason": "stop", "token_f1": 0.0, "contains": 0.0}
    rows = [{**blank, "question_id": str(i), "exact_match": value} for i, value in enumerate(outcomes)]
    write_rows(folder / "rows.parquet", rows, schema=ROWS)
    return registry.publish("evaluation", name, folder=folder, inputs={"suite": suite, "name": name})


def test_a_change_on_every_third_question(registry, tmp_path):
    before = publish(registry, tmp_path, "before", [0.0, 1.0, 1.0] * 40)
    after = publish(registry, tmp_path, "after", [1.0, 1.0, 1.0] * 40)
    change = compare(before, after, registry=registry, settings=EvaluationSettings())
    assert change.value == pytest.approx(1 / 3)
    assert 0.2 < change.low < 1 / 3 < change.high < 0.47
    same = compare(after, after, registry=registry, settings=EvaluationSettings())
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_different_suites_are_not_compared(registry, tmp_path):
    before = publish(registry, tmp_path, "before", [0.0, 1.0])
    after = publish(registry, tmp_path, "after", [1.0, 1.0], suite="suite-2")
    with pytest.raises(SuitesDiffer, match="same one"):
        compare(before, after, registry=registry, settings=EvaluationSettings())
