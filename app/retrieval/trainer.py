"""Tuning a retriever on Ray Train: encoder and re-ranker on questions whose chunks are known, and a version at the end.

Guarantees: the same inputs give the version that is there already; a run whose workers die goes on from its last
checkpoint, and so does one whose driver died when it is called again; on the held-out questions the retriever is never
below its base. Not guaranteed: equal weights from equal inputs on machines that round differently.
"""

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from app.core.digests import digest_json, hex_of
from app.core.errors import SignalboxError
from app.core.parquet import read_rows
from app.core.progress import Progress, progress, watched
from app.inference.encoder import encoder_folder
from app.inference.retrievers import ENCODER_FOLDER, KIND, QUESTIONS_FOLDER, find_source, retriever_of
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder
from app.retrieval.bank import Bank
from app.retrieval.calibrate import gold_of
from app.retrieval.finish import finish
from app.retrieval.learnt import Learnt
from app.retrieval.prepare import Prepared, prepare
from app.retrieval.rerank import passage_of
from app.retrieval.search import SearchIndex
from app.retrieval.settings import RetrievalSettings
from app.retrieval.shards import Local
from app.retrieval.tuning_plan import TunePlan, read_lines, write_plan

CODE_VERSION = "retriever-3"
POLL_S = 1.0


class TuningFailed(SignalboxError):
    """Workers failed more often than allowed; calling again goes on from the last checkpoint."""


def tune_retriever(
    index: Version,
    questions: Sequence[Version],
    *,
    name: str,
    registry: Registry,
    settings: RetrievalSettings,
) -> Version:
    """Tune an index's encoder of questions, and a re-ranker, on questions about its chunks; publish a retriever.

    Its chunks keep their vectors: an index that is built with the retriever takes them over. What BM25 learnt before is
    left out, so that no question held out stands in it: name the questions of before again.

    Args:
        index: whose chunks are learnt, whose search finds the hard negatives, and whose encoder is the base.
        questions: synthetic rows, or suites with sources.

    Raises:
        TooFewQuestions, TooFewPairs: not enough of the questions are about chunks of the index.
        TuningFailed: workers failed more often than allowed; calling again goes on from the last checkpoint.
        ArtifactChanged, RetrieverMismatch: the index or its retriever is not what was published.
    """
    inputs = {
        "index": index.digest,
        "questions": [each.digest for each in questions],
        "settings": settings.tune.inputs(),
        "code_version": CODE_VERSION,
    }
    if found := registry.find(KIND, name, inputs):
        return found
    before = retriever_of(index, registry=registry)
    source = find_source(before, registry=registry)
    chunks = source.folder / ENCODER_FOLDER if source.folder else encoder_folder()
    base = source.folder / QUESTIONS_FOLDER if source.folder and source.question_encoder else chunks
    place = whole_folder(index, registry)
    opened = Local.open(place)
    parts = opened.reworded(None) if Learnt.of_folder(place) else opened
    search, rows = SearchIndex.of(parts, place, dim=source.dim), parts.take(range(len(parts)))
    labelled = [row for each in questions for row in read_rows(whole_folder(each, registry) / ROWS_FILE)]
    asked = gold_of(labelled, search, most=settings.tune.max_pairs)
    read = [passage_of(row["heading_path"], row["text"]) for row in rows]
    prepared = prepare(
        asked, search, source.load_questions(num_threads=settings.tune.num_threads), bank=Bank.of_parts(parts),
        parts=parts, read=read, settings=settings.tune,
    )  # fmt: skip
    folder = registry.workspace.runs_dir / f"{name}-{hex_of(digest_json(inputs))[:12]}"
    plan = TunePlan(name=name, base_folder=base, chunks_folder=chunks, settings=settings.tune)
    begin(folder / "plan", plan, prepared)
    checkpoint = fit(folder, plan)
    with tempfile.TemporaryDirectory(dir=folder) as staged, checkpoint.as_directory() as trained:
        facts = finish(Path(staged) / "retriever", Path(trained), plan, prepared)
        facts |= {
            "base": source.question_encoder or source.encoder,
            "index": index.ref,
            "num_starts": num_starts(folder / "plan"),
        }
        parents = [index.digest, *inputs["questions"], *([before.digest] if before else [])]
        version = registry.publish(
            KIND, name, folder=Path(staged) / "retriever", inputs=inputs, parents=parents, facts=facts
        )
    shutil.rmtree(folder)
    return version


def begin(folder: Path, plan: TunePlan, prepared: Prepared) -> None:
    """Write what the workers read."""
    folder.mkdir(parents=True, exist_ok=True)
    prepared.examples.write(folder)
    prepared.bank.write(folder)
    write_plan(plan, folder)


def fit(folder: Path, plan: TunePlan) -> ray.train.Checkpoint:
    """Run the workers to the last step; the last checkpoint comes back."""
    from ray.train.torch import TorchConfig, TorchTrainer  # brings torch: a job's --help does without

    how = plan.settings
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"folder": str(folder / "plan"), "num_threads": how.num_threads},
        torch_config=TorchConfig(backend="gloo", timeout_s=how.start_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=how.num_workers,
            resources_per_worker={"CPU": how.num_threads, "memory": how.worker_memory_bytes},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=how.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        with watched(partial(_watch, folder / "plan", plan)):
            result = trainer.fit()
    except TrainingFailedError as error:
        raise TuningFailed(f"tuning {plan.name} failed, call it again to go on: {error}") from error
    assert result.checkpoint is not None
    return result.checkpoint


def _worker(config: Mapping[str, Any]) -> None:
    """Runs in every worker: wires the loop, which knows no Ray, to Ray Train."""
    import os

    os.environ |= {"OMP_NUM_THREADS": str(config["num_threads"]), "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    from app.retrieval.tuning import run_worker

    context = ray.train.get_context()
    with _restored() as restore_from:
        run_worker(
            Path(config["folder"]),
            rank=context.get_world_rank(),
            num_workers=context.get_world_size(),
            restore_from=restore_from,
            report=_report,
        )


@contextmanager
def _restored() -> Iterator[Path | None]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
    else:
        with checkpoint.as_directory() as name:
            yield Path(name)


def _report(metrics: Mapping[str, Any], folder: Path | None) -> None:
    checkpoint = ray.train.Checkpoint.from_directory(folder) if folder else None
    ray.train.report(dict(metrics), checkpoint=checkpoint)


def _watch(folder: Path, plan: TunePlan, stop: threading.Event) -> None:
    with progress(f"tune {plan.name}") as bar:
        while not stop.wait(POLL_S):
            _show(bar, read_lines(folder))
        _show(bar, read_lines(folder))


def _show(bar: Progress, lines: Sequence[Mapping[str, Any]]) -> None:
    if lines:
        last = lines[-1]
        bar.total = int(last["total"])
        said = f"{last['stage']}, loss {last['loss']:.3f}" if "loss" in last else "workers are up"
        bar.advance(int(last["step"]) - bar.done, said)


def num_starts(folder: Path) -> int:
    """How often workers began: 1, and 1 more for each time that a run was taken up again."""
    return sum(line["event"] == "start" for line in read_lines(folder))
