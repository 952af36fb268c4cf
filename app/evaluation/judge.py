"""From answers to outcomes to figures: pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.statistics import bootstrap_mean
from app.evaluation.metrics import contains, exact_match, token_f1
from app.evaluation.schema import METRICS
from app.evaluation.settings import EvaluationSettings

Row = Mapping[str, Any]


def judge(questions: Sequence[Row], answers: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of `schema.ROWS`, sorted by question id.

    Raises:
        ValueError: a question was not answered, or one was that nobody asked.
    """
    by_id = {answer["question_id"]: answer for answer in answers}
    if by_id.keys() != {question["question_id"] for question in questions} or len(by_id) != len(answers):
        raise ValueError("every question must be answered once")
    ordered = sorted(questions, key=lambda question: question["question_id"])
    return [_outcome(question, by_id[question["question_id"]]) for question in ordered]


def figures(rows: Sequence[Row], answers: Sequence[Row], *, settings: EvaluationSettings) -> dict[str, Any]:
    """Facts of an evaluation: each metric with its interval, and the speed of the answers."""
    seconds = sum(answer["seconds"] for answer in answers)
    return {
        **{metric: _interval([row[metric] for row in rows], settings) for metric in METRICS},
        "num_rows": len(rows),
        "tokens_per_s": sum(answer["num_tokens"] for answer in answers) / max(seconds, 1e-9),
        "seconds_per_question": seconds / len(rows),
    }


def _interval(outcomes: Sequence[float], settings: EvaluationSettings) -> dict[str, float]:
    return bootstrap_mean(
        outcomes, confidence=settings.confidence, num_resamples=settings.num_resamples, seed=settings.seed
    ).to_dict()


def _outcome(question: Row, answer: Row) -> dict[str, Any]:
    accepted, prediction = question["answers"], answer["prediction"]
    return {
        **question,
        **answer,
        "exact_match": exact_match(prediction, accepted),
        "token_f1": token_f1(prediction, accepted),
        "contains": contains(prediction, accepted),
    }
