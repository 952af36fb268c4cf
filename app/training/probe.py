"""A few real steps of a run, timed: the model, the rows and the workers are the run's own, nothing of it is kept.

Guarantees: every worker makes the same number of steps; the first, which builds what later ones find, is not timed. In
`dpo` the base's log-probabilities are left at 0, since a pass over all rows would cost more than the probe. Knows no
Ray; only workers import this (torch, DeepSpeed). Not guaranteed: that steps with other rows take as long.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.core.files import replace_text
from app.training.extensions import number_type, quieten
from app.training.loop import Progress, make_engine, train_step
from app.training.machine import machine
from app.training.plan import make_batches, read_plan
from app.training.speed import SPEED_FILE

TIMED_S = 2.0
"""Steps are timed for so long, or for one where it takes longer."""
MOST_STEPS = 50


def probe_worker(folder: Path, *, rank: int, num_workers: int) -> None:
    """Step for a while from the plan in ``folder``; the first worker writes ``speed.json`` there."""
    plan = read_plan(folder)
    quieten()
    torch.set_num_threads(plan.settings.workers.num_threads)
    batches = make_batches(plan, folder)
    engine, subspaces = make_engine(plan, batches, num_workers=num_workers)
    if plan.settings.recipe == "dpo":
        batches.reference = np.zeros(len(batches.examples), dtype=np.float32)
    progress = Progress()

    def step() -> None:
        train_step(engine, subspaces, batches, plan.settings, progress, rank=rank, num_workers=num_workers)

    step()
    num_tokens, started_s = progress.num_tokens, time.perf_counter()
    for _ in range(min(MOST_STEPS, max(1, plan.settings.num_steps - 1))):
        step()
        if _all_done(time.perf_counter() - started_s > TIMED_S, engine, num_workers):
            break
    duration_s = time.perf_counter() - started_s
    if rank == 0:
        dtype = number_type(plan.settings.dtype)
        figures = {"tokens_per_s": (progress.num_tokens - num_tokens) / duration_s, "steps": progress.step - 1}
        replace_text(
            folder / SPEED_FILE, json.dumps({**figures, "duration_s": duration_s, "dtype": dtype, **machine()})
        )


def _all_done(is_done: bool, engine: Any, num_workers: int) -> bool:
    """Whether any worker has stepped for long enough; all of them hear the same."""
    if num_workers == 1:
        return is_done
    told = torch.tensor([int(is_done)], dtype=torch.int32, device=engine.device)
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    return bool(told.item())
