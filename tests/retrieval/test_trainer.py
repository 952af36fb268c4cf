"""Tuning on the cluster: two workers, a version that an index is built with, and the same one when asked again.

A run of which a worker is killed in the middle ends with the same bytes.
"""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from ray.train import Checkpoint

from app.core.parquet import write_rows
from app.inference.retrievers import find_source
from app.registry.tables import CHUNKS, CHUNKS_FILE, ROWS_FILE
from app.retrieval import trainer
from app.retrieval.evaluate import evaluate_index
from app.retrieval.settings import RetrievalSettings
from app.retrieval.trainer import tune_retriever
from app.retrieval.tuning import run_worker
from app.retrieval.tuning_plan import read_lines
from tests.retrieval.test_tuning import TUNE, rows_of, texts
from tests.retrieval.tuned import build_index, publish_retriever

HOW_LONG = ("duration_s", "num_starts")
"""What of a version's facts differs when a worker was killed."""


@pytest.fixture
def labelled(registry, tmp_path):
    """An index over random words, made with a random encoder, and questions whose chunks are known."""
    given = texts()
    (tmp_path / "chunks").mkdir()
    write_rows(tmp_path / "chunks" / CHUNKS_FILE, rows_of(given), schema=CHUNKS)
    dataset = registry.publish("dataset", "words", folder=tmp_path / "chunks", inputs={"of": "words"}, facts={})
    table = [
        {"question": f"what {text.split()[0]} {text.split()[3]}", "chunk_id": f"c{n}"} for n, text in enumerate(given)
    ]
    (tmp_path / "rows").mkdir()
    schema = pa.schema([("question", pa.string()), ("chunk_id", pa.string())])
    write_rows(tmp_path / "rows" / ROWS_FILE, table, schema=schema)
    asked = registry.publish("synthetic", "words-qa", folder=tmp_path / "rows", inputs={"of": "rows"}, facts={})
    base = publish_retriever(registry, tmp_path / "base", name="base", num_layers=2, scale=4)
    return dataset, asked, base, build_index(registry, dataset, retriever=base)


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_retriever_is_tuned_by_two_workers_and_found_again(registry, labelled):
    dataset, asked, base, index = labelled
    settings = RetrievalSettings(tune=TUNE.model_copy(update={"num_workers": 2, "worker_memory_bytes": 512 << 20}))
    tuned = tune_retriever(index, [asked], name="words", registry=registry, settings=settings)
    assert tuned.kind == "retriever"
    assert tuned.parents == [index.digest, asked.digest, base.digest]
    assert tuned.facts["num_starts"] == 1
    assert tuned.facts["train"]["steps"] == len(
        tuned.facts["train"]["encoder_loss"] + tuned.facts["train"]["reranker_loss"]
    )
    find_source(tuned, registry=registry).load()
    assert not list(registry.workspace.runs_dir.iterdir())
    assert tune_retriever(index, [asked], name="words", registry=registry, settings=settings) == tuned

    again = build_index(registry, dataset, retriever=tuned, name="again")
    assert again.facts["encoder"] == tuned.facts["encoder"]
    assert evaluate_index(again, asked, registry=registry).facts["num_questions"] == 60


@pytest.mark.cluster
@pytest.mark.chaos
@pytest.mark.usefixtures("cluster")
def test_a_run_whose_worker_is_killed_ends_with_the_same_bytes(registry, labelled, monkeypatch):
    _, asked, _, index = labelled
    tune = TUNE.model_copy(update={"worker_memory_bytes": 512 << 20})
    given = {"registry": registry, "settings": RetrievalSettings(tune=tune)}
    killer = Killer(registry.workspace.runs_dir)
    killer.start()
    killed = tune_retriever(index, [asked], name="killed", **given)
    killer.join()
    assert killed.facts["num_starts"] == 2
    monkeypatch.setattr(trainer, "fit", fit_here)
    whole = tune_retriever(index, [asked], name="whole", **given)
    assert whole.facts["num_starts"] == 1
    assert killed.manifest["files"] == whole.manifest["files"]
    assert lasting(killed.facts) == lasting(whole.facts)


def fit_here(folder: Path, _) -> Checkpoint:
    """The same steps in this process, with nothing in their way."""
    kept: list[Path] = []

    def report(_, checkpoint: Path) -> None:
        kept.append(folder / f"kept-{len(kept)}")
        shutil.copytree(checkpoint, kept[-1])

    run_worker(folder / "plan", rank=0, num_workers=1, restore_from=None, report=report)
    return Checkpoint.from_directory(kept[-1])


class Killer(threading.Thread):
    """Kills the first worker of the one run below a folder, once it has left its first checkpoint behind."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.pid = folder, 0

    def run(self) -> None:
        while not self.pid:
            time.sleep(0.005)
            if any(self.folder.glob("*/ray/checkpoint_*")):
                (line, *_) = (line for plan in self.folder.glob("*/plan") for line in read_lines(plan))
                self.pid = line["pid"]
                os.kill(self.pid, signal.SIGKILL)


def lasting(facts: dict) -> dict:
    """Facts of a retriever without how long it took."""
    train = {name: value for name, value in facts["train"].items() if name not in HOW_LONG}
    return {name: value for name, value in facts.items() if name not in HOW_LONG} | {"train": train}
