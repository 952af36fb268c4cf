"""False alarms and alarms on real questions: the demo's own traffic, and public sets where they are there.

Confidence and route are drawn alike before and after the shift, which is the hardest case: only question length,
retrieval score and the embedding can tell.
"""

import gzip
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.demo.facts import facts
from app.demo.questions import traffic
from app.inference.encoder import Encoder
from app.monitoring.drift import fit_thresholds, is_alarm, measure_window
from app.monitoring.settings import MonitorSettings
from app.monitoring.signals import fit_projection, signal_columns
from tests.monitoring.conftest import START

SETTINGS = MonitorSettings()
Vectors = np.ndarray


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


def rows_of(questions: Sequence[str], vectors: Vectors, passages: Vectors) -> list[dict[str, Any]]:
    rng = np.random.default_rng(len(questions))
    scores = (vectors @ passages.T).max(axis=1)
    return [
        {
            "request_id": f"r{number:06}",
            "time": START + timedelta(seconds=number),
            "route": "small" if rng.random() < 0.8 else "extractive",
            "confidence": float(rng.beta(8, 2)),
            "retrieval_score": float(score),
            "num_question_words": len(question.split()),
            "embedding": vector,
        }
        for number, (question, vector, score) in enumerate(zip(questions, vectors, scores, strict=True))
    ]


def alarms(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> tuple[list[bool], list[bool]]:
    """Whether each whole window raises the alarm: those after the baseline in ``before``, then those of ``after``."""
    reference, same = before[: SETTINGS.reference_size], before[SETTINGS.reference_size :]
    projection = fit_projection(reference, num_components=8, num_neighbours=3)
    columns = signal_columns(reference, projection, is_reference=True)
    thresholds = fit_thresholds(columns, settings=SETTINGS)

    def judge(rows: list[dict[str, Any]]) -> bool:
        figures = measure_window(columns, signal_columns(rows, projection), thresholds=thresholds)
        return is_alarm(figures, min_signals=SETTINGS.min_signals)

    size = SETTINGS.window_size
    windows = [[rows[i : i + size] for i in range(0, len(rows) - size + 1, size)] for rows in (same, after)]
    return [judge(rows) for rows in windows[0]], [judge(rows) for rows in windows[1]]


def test_the_demos_shift_raises_the_alarm_and_its_usual_traffic_does_not(encoder: Encoder) -> None:
    before = [row["question"] for row in traffic("before", num=300)]
    after = [row["question"] for row in traffic("after", num=50)]
    passages = encoder.encode([f"The {fact.attribute} of the {fact.entity} is {fact.value}." for fact in facts(1)])
    quiet, loud = alarms(
        rows_of(before, encoder.encode(before), passages), rows_of(after, encoder.encode(after), passages)
    )
    assert quiet == [False] * 2
    assert loud == [True]


def test_another_trades_questions_raise_the_alarm_and_the_same_trades_do_not(
    encoder: Encoder, shared_data: Path
) -> None:
    banking = sample(shared_data / "banking77" / "test.jsonl.gz", num=400)
    general = sample(shared_data / "clinc150" / "test.jsonl.gz", num=50)
    usual, passages = banking[:300], encoder.encode(banking[300:])
    quiet, loud = alarms(
        rows_of(usual, encoder.encode(usual), passages), rows_of(general, encoder.encode(general), passages)
    )
    assert quiet == [False] * 2
    assert loud == [True]


def sample(path: Path, *, num: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:num]]
