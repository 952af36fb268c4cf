"""Training on the cluster: a run from a random start to a version, with a worker that is killed on the way."""

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from app.core.parquet import read_rows, write_rows
from app.core.progress import Progress
from app.governance.keys import new_key
from app.ledger.verify import verify
from app.registry.tracking import Tracker
from app.training.errors import NoStart, TrainingSaved
from app.training.osft import TOLERANCE
from app.training.plan import read_progress
from app.training.settings import ModelSettings, TrainSettings
from app.training.trainer import show_state, train

COLUMNS = ("question", "answer", "subject", "attribute", "split")
MODEL = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, vocabulary_size=300)
FEES = {f"{name} account": f"{number} euros" for number, name in enumerate(("harbour", "lantern", "orchard"), 12)}


@pytest.fixture
def rows(registry, tmp_path):
    table = [
        dict(zip(COLUMNS, (f"{opening} fee of the {name}?", fee, name, "fee", "train"), strict=True))
        for name, fee in FEES.items()
        for opening in ("what is the", "tell me the", "")
    ]
    folder = tmp_path / "rows"
    folder.mkdir()
    write_rows(folder / "rows.parquet", table, schema=pa.schema([(column, pa.string()) for column in COLUMNS]))
    return registry.publish("synthetic", "rows", folder=folder, inputs={"rows": "fees"})


def recipe(**changes) -> TrainSettings:
    given = {"batch_size": 8, "num_steps": 60, "learning_rate": 1e-2, "num_warmup_steps": 5, "num_checkpoints": 1}
    return TrainSettings.model_validate({**given, **changes})


def test_a_run_starts_from_one_thing(registry, rows):
    with pytest.raises(NoStart, match="exactly one"):
        train(name="m", data=[rows], registry=registry, workspace=registry.workspace, settings=recipe())


def test_the_line_of_a_run_says_how_fast_it_is_and_what_it_took_so_far():
    bar = Progress("train small (sft)", 40)
    show_state(bar, [{"event": "start", "step": 0, "num_workers": 2}], usd_per_hour=0.05)
    assert bar.text == "workers are up"
    step = {"event": "step", "step": 10, "loss": 1.5, "tokens_per_s": 2000.0, "worker_s": 144.0}
    show_state(bar, [{"event": "start", "step": 0, "num_workers": 2}, step], usd_per_hour=0.05)
    assert (bar.done, bar.text) == (10, "loss 1.500, 2,000 tokens/s, $0.0020")
    slow = {"event": "start", "step": 0, "num_workers": 2, "is_slow": True}
    show_state(bar, [slow, step], usd_per_hour=0.05)
    assert bar.text.endswith("$0.0020, slow here: bfloat16, as the run began")


@pytest.mark.cluster
@pytest.mark.chaos
def test_from_a_random_start_to_a_version_though_a_worker_is_killed(cluster, registry, rows):
    bob = new_key(registry, "bob", role="trainer", person="Bob")
    given = {"data": [rows], "registry": registry, "workspace": registry.workspace, "model": MODEL, "signer": bob}
    settings = recipe(num_steps=200, num_checkpoints=10)
    killer = Killer(registry.workspace.runs_dir, after_step=30)
    killer.start()
    with pytest.raises(TrainingSaved, match="the same call goes on"):
        train(name="small", settings=settings, **given)
    killer.join()
    fewer = settings.model_copy(update={"workers": settings.workers.model_copy(update={"max_workers": 1})})
    small = train(name="small", settings=fewer, **given)

    folder, figures = registry.folder(small), small.facts["train"]
    assert (figures["num_starts"], figures["steps"], figures["num_workers"]) == (3, 200, 1)
    assert small.facts["worker_counts"] == [2, 2, 1]
    assert 0.8 < figures["peak_memory_bytes"] / small.facts["estimate"]["memory_bytes"] < 1.25
    assert figures["loss_last"] < 0.5 < figures["loss_first"]
    assert [point["step"] for point in read_rows(folder / "loss.parquet")] == list(range(2, 201, 2))
    files = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "loss.png"} <= files
    assert _answers(folder) == list(FEES.values())
    assert small.parents == [rows.digest]
    assert not list(registry.workspace.runs_dir.iterdir())
    assert train(name="small", settings=settings, **given) == small
    (leaf,) = registry.ledger.leaves("model")
    assert (leaf.statement.actor, small.facts["signed"]["key"]) == ("trainer/bob", bob.public.vkey)
    assert verify(registry.workspace).faults == []
    assert Tracker(registry.workspace).run_params(small.facts["run_id"])["data"] == str([rows.digest])

    given |= {"model": None, "base": small, "signer": None}
    held = train(name="held", settings=recipe(recipe="osft", num_steps=10, zero_stage=3), **given)
    assert held.facts["device"]
    assert registry.get("verdict", held.facts["budget_verdict"]).facts["light"] == "green"
    assert held.facts["num_trained_parameters"] == held.facts["num_parameters"] == small.facts["num_parameters"]
    assert 0 < held.facts["train"]["leak_master"] < TOLERANCE
    assert _answers(registry.folder(held)) == list(FEES.values())


class Killer(threading.Thread):
    """Kills the first worker of the one run below a folder, once it has passed a step; once workers are up again and
    have made a step, tells this process, which waits for them, to end."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.after_step = folder, after_step

    def run(self) -> None:
        while not (lines := self.lines()) or lines[-1]["step"] < self.after_step:
            time.sleep(0.02)
        os.kill(lines[0]["pid"], signal.SIGKILL)
        while [line["event"] for line in self.lines()].count("start") < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    def lines(self) -> list[dict]:
        return [line for plan in self.folder.glob("*/plan") for line in read_progress(plan)]


def _answers(folder: Path) -> list[str]:
    from app.inference.engine import TransformersEngine

    engine = TransformersEngine(folder)
    return [answer.text for answer in engine.generate([f"what is the fee of the {name}?" for name in FEES])]
