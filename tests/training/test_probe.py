"""A probe's steps with one worker and no Ray."""

import json

import pytest

from app.training.extensions import number_type
from app.training.machine import processor
from app.training.speed import SPEED_FILE
from tests.training.test_loop import write_run

pytestmark = pytest.mark.usefixtures("one_worker")


@pytest.mark.parametrize("recipe", ["sft", "osft"])
def test_a_few_steps_are_timed_and_nothing_is_kept(tmp_path, recipe):
    from app.training.probe import probe_worker

    folder = write_run(tmp_path / "run", recipe=recipe)
    before = {path.name for path in folder.iterdir()}
    probe_worker(folder, rank=0, num_workers=1)
    figures = json.loads((folder / SPEED_FILE).read_text())
    assert figures["tokens_per_s"] > 0
    assert 1 <= figures["steps"] <= 11  # of a run of 12
    assert figures["peak_memory_bytes"] > 1e8
    assert figures["device"]
    assert figures["dtype"] == number_type("auto")
    assert {path.name for path in folder.iterdir()} == {*before, SPEED_FILE}


def test_the_processor_has_a_name(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9000\n")
    assert processor(tmp_path / "cpuinfo") == "Abacus 9000"
    assert processor(tmp_path / "none")
