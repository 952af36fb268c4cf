"""What is said about a run that was killed and went on. That it is so on a cluster: test_trainer.py."""

import pytest

from app.training.equivalence import NotDisturbed, compared, disturbed

LINES = [
    {"event": "start", "step": 0, "pid": 7},
    {"event": "step", "step": 31},
    {"event": "start", "step": 30, "pid": 8},
    {"event": "step", "step": 60},
]


def test_files_that_differ_are_named():
    alone = {"model.safetensors": "a", "config.json": "b"}
    assert compared(alone, dict(alone)) == {"is_equal": True, "differing": [], "files": alone}
    assert compared(alone, alone | {"model.safetensors": "c"})["differing"] == ["model.safetensors"]
    assert not compared(alone, {"config.json": "b"})["is_equal"]


def test_where_it_was_killed_and_where_it_went_on():
    found = disturbed(LINES, 7)
    assert found == {"killed_pid": 7, "killed_after_step": 31, "resumed_from_step": 30, "num_starts": 2}


@pytest.mark.parametrize(("lines", "pid"), [(LINES[:2], 0), (LINES[:2], 7), (LINES, 0)])
def test_a_run_that_nobody_killed_proves_nothing(lines, pid):
    with pytest.raises(NotDisturbed, match="more steps"):
        disturbed(lines, pid)
