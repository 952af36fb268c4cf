"""Suite version and model version to evaluation version: a Ray Data actor pool answers, the driver judges.

Guarantees: idempotent by model, suite, settings and code version; every question is answered once, or the run fails;
rows are sorted by question id. Not guaranteed: that the speed is the same tomorrow; it is this run's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from app.core.errors import UsageError
from app.core.parquet import read_rows, write_rows
from app.evaluation.answerers import Answer, Answerer, Grounding
from app.evaluation.judge import figures, judge
from app.evaluation.schema import ANSWERS, ROWS
from app.evaluation.settings import EvaluationSettings
from app.inference.models import ModelSource, find_model
from app.inference.passages import PASSAGES
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version

CODE_VERSION = "evaluation-1"
KIND = "evaluation"
COUNTS = {"given": "num_passages", "dropped": "num_dropped"}
EXECUTION_SETTINGS = {"num_workers", "num_threads", "worker_memory_bytes"}


class NothingToCompare(UsageError):
    """A suite names no accepted answers: it judges an index, by jobs.evaluate_retrieval; name another for a model."""


class NobodyAnswers(UsageError):
    """An evaluation needs a model or something else that answers: name exactly one of them."""


def evaluate(
    model: Version | None,
    suite: Version,
    *,
    registry: Registry,
    settings: EvaluationSettings,
    answer: Answer | None = None,
    grounding: Grounding | None = None,
    parents: Sequence[str] = (),
    name: str | None = None,
) -> Version:
    """Run a suite and publish outcomes and figures.

    Args:
        answer: answers in a model's place; a picklable callable from questions to texts.
        grounding: passages that the model is given with each question, part of what the evaluation is of.
        parents: digests of what ``answer`` reads, such as an index.
        name: of the evaluation; by default the model's and the suite's.

    Raises:
        NobodyAnswers: both or neither of model and answer are given.
        NothingToCompare: no question of the suite has an accepted answer; those without are left out.
    """
    if (model is None) == (answer is None):
        raise NobodyAnswers("an evaluation needs a model or an answerer: name exactly one of them")
    name = name or f"{model.name if model else type(answer).__name__.lower()}-{suite.name}"
    name, parents = (f"{name}-passages", [*parents, grounding.index]) if grounding else (name, parents)
    inputs = _inputs(model, suite, answer, parents, settings) | ({PASSAGES: grounding.identity} if grounding else {})
    if found := registry.find(KIND, name, inputs):
        return found
    questions = [row for row in read_rows(registry.folder(suite) / ROWS_FILE) if row["answers"]]
    if not questions:
        raise NothingToCompare(f"suite {suite.ref} names no answers: it judges an index, by jobs.evaluate_retrieval")
    source = find_model(model, registry=registry) if model else answer
    assert source is not None
    answers = ask(questions, source, settings=settings, grounding=grounding)
    rows = judge(questions, answers)
    facts = {"model": inputs["model"], "suite": suite.digest, **figures(rows, answers, settings=settings)}
    facts |= {PASSAGES: {**grounding.identity, **_counted(answers)}} if grounding else {}
    lineage = [*([model.digest] if model else []), suite.digest, *parents]
    with TemporaryDirectory(prefix="evaluation-") as folder:
        write_rows(Path(folder) / ROWS_FILE, rows, schema=ROWS)
        return registry.publish(KIND, name, folder=Path(folder), inputs=inputs, parents=lineage, facts=facts)


def _inputs(
    model: Version | None, suite: Version, answer: Answer | None, parents: Sequence[str], settings: EvaluationSettings
) -> dict[str, Any]:
    return {
        "model": model.digest if model else None,
        "answer": f"{type(answer).__module__}.{type(answer).__qualname__}" if answer else None,
        "suite": suite.digest,
        "parents": list(parents),
        "settings": settings.model_dump(mode="json", exclude=EXECUTION_SETTINGS),
        "code": CODE_VERSION,
    }


def _counted(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many passages stood in the prompts, of all questions, and how many had no room."""
    return {f"num_{name}": sum(answer[column] for answer in answers) for name, column in COUNTS.items()}


def ask(
    questions: Sequence[Mapping[str, Any]],
    source: ModelSource | Answer,
    *,
    settings: EvaluationSettings,
    grounding: Grounding | None = None,
) -> list[dict[str, Any]]:
    """Questions to rows of `schema.ANSWERS`, in no particular order."""
    table = pa.table({key: [question[key] for question in questions] for key in ("question_id", "question")})
    answered = (
        ray.data.from_arrow(table)
        .repartition(settings.num_workers)
        .map_batches(
            AnswerBatch,
            fn_constructor_args=(source, settings, grounding),
            compute=ActorPoolStrategy(size=settings.num_workers),
            batch_format="pyarrow",
            batch_size=settings.batch_size,
            num_cpus=settings.num_threads,
            memory=settings.worker_memory_bytes,
        )
    )
    batches = answered.iter_batches(batch_format="pyarrow", batch_size=None)
    return [row for batch in batches for row in batch.select(ANSWERS.names).to_pylist()]


class AnswerBatch:
    """The actor: an answerer over Arrow tables."""

    def __init__(
        self, source: ModelSource | Answer, settings: EvaluationSettings, grounding: Grounding | None = None
    ) -> None:
        how: dict[str, Any] = {"num_threads": settings.num_threads, "max_new_tokens": settings.max_new_tokens}
        self._answerer = Answerer(source, grounding=grounding, **how)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A batch of questions to rows of `schema.ANSWERS`."""
        ids, questions = batch["question_id"].to_pylist(), batch["question"].to_pylist()
        return pa.Table.from_pylist(self._answerer.answer_rows(ids, questions), schema=ANSWERS)
