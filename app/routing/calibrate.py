"""Calibration: ask the models the calibration questions, learn when their answers are right, publish a router.

The rows of split "calibration" hold unseen wordings and facts that were withheld from training, so that the router sees
wrong answers too. Needs no cluster: a few hundred short answers take seconds.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from app.core.batches import batched
from app.core.errors import SignalboxError
from app.core.parquet import read_rows
from app.inference.chat_format import Prompt
from app.inference.passages import PASSAGES, grounded, identity_of
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version
from app.routing.features import Answer, Found, extract_features, same_answer
from app.routing.router import Router, Row
from app.routing.settings import RoutingSettings

CODE_VERSION = "router-1"
SPLIT = "calibration"


class NothingToCalibrate(SignalboxError):
    """There is no model or no calibration row: train a model and synthesise rows first."""


class Engine(Protocol):
    """What generates answers."""

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int) -> Sequence[Answer]: ...


Search = Callable[[list[str]], Sequence[Sequence[Found]]]
Load = Callable[[Version], Engine]


def calibrate(
    *,
    small: Version | None,
    large: Version | None,
    index: Version,
    synthetic: Version,
    search: Search,
    load: Load,
    registry: Registry,
    settings: RoutingSettings,
    context_passages: int = 0,
) -> Version:
    """Publish the router of a pair of models; one that exists for the same inputs is returned as it is.

    Args:
        search: questions -> the best ``top_k`` passages of each, by ``index``; as many as the models are given.
        context_passages: how many of them the models are given.
        load: a model version -> its engine.

    Raises:
        NothingToCalibrate: neither model is given, or no row has split "calibration".
    """
    models = {rung: model for rung, model in (("small", small), ("large", large)) if model}
    inputs = _inputs(models, index=index, synthetic=synthetic, settings=settings)
    inputs |= {PASSAGES: identity_of(index.digest, context_passages)} if context_passages else {}
    if found := registry.find("router", settings.name, inputs):
        return found
    rows = calibration_rows(registry.folder(synthetic) / ROWS_FILE, limit=settings.max_calibration_rows)
    if not models or not rows:
        raise NothingToCalibrate("a router needs a model and rows of split calibration: train and synthesise first")
    passages = search([row["question"] for row in rows])
    asked: dict[str, Any] = {"settings": settings, "context_passages": context_passages}
    outcomes = {rung: judge_answers(rows, passages, load(model), **asked) for rung, model in models.items()}
    router = Router.fit(outcomes, settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        router.save(Path(folder))
        return registry.publish(
            "router",
            settings.name,
            folder=Path(folder),
            inputs=inputs,
            parents=[index.digest, synthetic.digest, *(model.digest for model in models.values())],
            facts=_facts(router, num_rows=len(rows), settings=settings),
        )


def calibration_rows(path: Path, *, limit: int) -> list[dict[str, Any]]:
    """The first rows of the split by row id; ids are hashes, so this is a sample that repeats itself."""
    rows = [row for row in read_rows(path) if row["split"] == SPLIT]
    return sorted(rows, key=lambda row: str(row["row_id"]))[:limit]


def judge_answers(
    rows: Sequence[Mapping[str, Any]],
    passages: Sequence[Sequence[Found]],
    engine: Engine,
    settings: RoutingSettings,
    context_passages: int = 0,
) -> list[Row]:
    """Features and correctness of an engine's answers to the rows' questions."""
    questions = [str(row["question"]) for row in rows]
    prompts = [grounded(each, found, context_passages) for each, found in zip(questions, passages, strict=True)]
    answers: list[Answer] = []
    for batch in batched(prompts, settings.batch_size):
        answers += engine.generate(batch, max_new_tokens=settings.max_new_tokens)
    return [
        Row(extract_features(question, given, found), same_answer(given.text, row["answers"]))
        for question, given, found, row in zip(questions, answers, passages, rows, strict=True)
    ]


def _inputs(
    models: Mapping[str, Version], *, index: Version, synthetic: Version, settings: RoutingSettings
) -> dict[str, Any]:
    return {
        "models": {rung: model.digest for rung, model in models.items()},
        "index": index.digest,
        "synthetic": synthetic.digest,
        "settings": settings.model_dump(mode="json"),
        "code": CODE_VERSION,
    }


def _facts(router: Router, *, num_rows: int, settings: RoutingSettings) -> dict[str, Any]:
    rungs = {
        name: {
            "threshold": rung.threshold,
            "coverage": rung.coverage,
            "precision": rung.precision,
            "precision_low": rung.precision_low,
            "accuracy": rung.num_correct / rung.num_rows,
        }
        for name, rung in router.rungs.items()
    }
    return {
        "num_rows": num_rows,
        "target_precision": settings.target_precision,
        "rungs": rungs,
        "coverage": router.cascade.coverage,
        "precision": router.cascade.precision,
        "precision_low": router.cascade.precision_low,
    }
