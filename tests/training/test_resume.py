"""A run is told to save, told to end, killed, and goes on: at the same step, with as many workers as there are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.training.durable import copy_durably
from app.training.errors import CheckpointBroken, TrainingSaved
from app.training.plan import read_progress, worker_counts
from app.training.requests import END, NOTHING, SAVE, agreed, ask, asked, by_signal, forget
from app.training.settings import TrainSettings
from tests.training.test_loop import write_run

TOLERANCE = 2e-4
"""Largest difference of a float32 weight after 6 steps with other numbers of workers: sums have another order."""


@pytest.fixture(scope="module")
def workers():
    """Runs plans: `workers(folder, num_workers, restore_from=None)` gives the steps of all checkpoints so far."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.training._workers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(folder: Path, num_workers: int, restore_from: Path | None = None) -> list[int]:
        given = {"folder": str(folder), "num_workers": num_workers}
        given |= {"restore_from": str(restore_from)} if restore_from else {}
        print(json.dumps(given), file=child.stdin, flush=True)
        answer = json.loads(child.stdout.readline())
        assert set(answer["ended"]) == {0}
        return answer["steps"]

    yield run
    child.stdin.close()
    child.wait()


def weights(folder: Path, step: int) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / f"checkpoint-{step}" / "export" / "model.safetensors")


def differ(one: dict, other: dict) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(("stage", "num_workers"), [(0, 1), (1, 3), (3, 2), (3, 1)])
def test_a_run_of_two_workers_goes_on_with_another_number(tmp_path, workers, stage, num_workers):
    given = {"num_steps": 6, "num_checkpoints": 2, "zero_stage": stage, "dtype": "float32", "batch_size": 6}
    whole, other = (write_run(tmp_path / name, **given) for name in ("whole", "other"))
    assert workers(whole, 2) == [3, 6]
    assert workers(other, num_workers, whole / "checkpoint-3") == [6]
    (start,) = (line for line in read_progress(other) if line["event"] == "start")
    assert (start["step"], worker_counts([start])) == (3, [num_workers])
    far = differ(weights(whole, 6), weights(other, 6))
    assert far == 0 if num_workers == 2 else 0 < far < TOLERANCE


def test_a_checkpoint_with_a_part_missing_is_refused(tmp_path, workers):
    from app.training.state import load_state

    folder = write_run(tmp_path / "run", num_steps=1, num_checkpoints=1)
    workers(folder, 2)
    (folder / "checkpoint-1" / "state-00001-of-00002.pt").unlink()
    with pytest.raises(CheckpointBroken, match="lacks parts"):
        load_state(None, folder / "checkpoint-1")


SIGNALLED = """
import sys
from pathlib import Path
from app.core.errors import exit_status
from app.training.errors import TrainingSaved
from app.training.requests import by_signal
from tests.training import _workers
from app.training.extensions import prepare_environment
folder = Path(sys.argv[1])
prepare_environment()
with exit_status(), by_signal(folder):
    _workers.work(str(folder), 0, 1, None, (folder / "store").as_uri())
    if not list(folder.glob("checkpoint-*/summary.json")):
        raise TrainingSaved("call again")
"""


def wait_for_step(folder: Path, step: int) -> None:
    while not any(line["event"] == "step" and line["step"] >= step for line in read_progress(folder)):
        time.sleep(0.02)


def test_a_process_told_to_save_saves_and_told_to_end_ends_where_it_can_go_on(tmp_path, workers):
    """Real signals to a real process; then the run goes on from the very step, to the weights of one left alone."""
    given = {"num_steps": 100, "num_checkpoints": 1, "dtype": "float32"}
    folder = write_run(tmp_path / "run", **given)
    process = subprocess.Popen([sys.executable, "-c", SIGNALLED, str(folder)], stderr=subprocess.PIPE, text=True)
    wait_for_step(folder, 5)
    process.send_signal(signal.SIGUSR1)
    while not (saved := sorted(folder.glob("checkpoint-*/progress.json"))):
        time.sleep(0.01)
    first = json.loads(saved[0].read_text())["step"]
    wait_for_step(folder, first + 1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, TrainingSaved.exit_status) == (75, 75)
    assert "SIGUSR1: a checkpoint" in said
    steps = sorted(int(each.name.partition("-")[2]) for each in folder.glob("checkpoint-*"))
    assert steps[0] == first < steps[-1] < 100
    forget(folder)
    assert workers(folder, 1, folder / f"checkpoint-{steps[-1]}") == [*steps, 100]
    assert [line["step"] for line in read_progress(folder) if line["event"] == "start"] == [0, steps[-1]]
    alone = write_run(tmp_path / "alone", **given)
    workers(alone, 1)
    assert differ(weights(alone, 100), weights(folder, 100)) == 0


def test_several_workers_save_at_the_same_step_and_end_together(tmp_path, workers):
    folder = write_run(tmp_path / "run", num_steps=10_000, num_checkpoints=1)
    asker = threading.Thread(target=lambda: (wait_for_step(folder, 3), ask(folder, END)))
    asker.start()
    (step,) = workers(folder, 2)
    asker.join()
    assert 3 <= step < 10_000
    assert len(list((folder / f"checkpoint-{step}").glob("state-*-of-00002.pt"))) == 2


def test_a_request_for_a_checkpoint_is_met_once_and_one_for_the_end_stays(tmp_path):
    assert asked(tmp_path) == NOTHING
    ask(tmp_path, SAVE)
    assert [agreed(tmp_path, rank=0, num_workers=1) for _ in range(2)] == [SAVE, NOTHING]
    ask(tmp_path, SAVE)
    ask(tmp_path, END)
    assert [asked(tmp_path), asked(tmp_path)] == [END, END]
    forget(tmp_path)
    assert asked(tmp_path) == NOTHING


def test_signals_ask_inside_the_block_alone_and_the_second_sigterm_is_the_handlers_before(tmp_path, monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("before"))
    try:
        with by_signal(tmp_path):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert asked(tmp_path) == SAVE
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # the same, sent to the process and to its group
            assert (asked(tmp_path), heard) == (END, [])
            monkeypatch.setattr("app.training.requests.SAME_S", 0.0)
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == ["before"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["before"] * 2
        with by_signal(tmp_path):
            assert asked(tmp_path) == NOTHING  # of a run before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_two_workers_copy_into_one_folder_and_nothing_half_written_has_its_name(tmp_path, monkeypatch):
    for number in (0, 1):
        part = tmp_path / f"part-{number}"
        (part / "export").mkdir(parents=True)
        (part / "export" / f"{number}.bin").write_bytes(b"x" * 1000)
    flushed = []
    monkeypatch.setattr("app.training.durable.flush", lambda path: flushed.append(path.name))
    for number in (0, 1):
        copy_durably(tmp_path / f"part-{number}", tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "whole").rglob("*")) == ["0.bin", "1.bin", "export"]
    assert {"export", "whole", tmp_path.name} < set(flushed)

    monkeypatch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        copy_durably(tmp_path / "part-0", tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob("*.bin"))


@pytest.mark.parametrize(
    ("workers", "expected"),
    [({}, (2, 2)), ({"min_workers": 1}, (1, 2)), ({"max_workers": 4}, (2, 4)), ({"max_workers": 1}, (1, 1))],
)
def test_how_many_workers_may_run_is_no_input_of_the_version(workers, expected):
    settings = TrainSettings.model_validate({"workers": workers})
    assert settings.workers.range == expected
    assert settings.inputs() == TrainSettings().inputs()


@pytest.mark.parametrize(
    "changes", [{"workers": {"max_workers": 65}}, {"workers": {"min_workers": 3, "max_workers": 2}}]
)
def test_workers_that_cannot_run_are_refused(changes):
    with pytest.raises(ValueError, match="max_workers"):
        TrainSettings.model_validate(changes)
