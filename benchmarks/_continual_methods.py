"""The ways to learn a sequence of tasks that are compared, and one run of one of them in a process of its own."""

import gc
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

from app.inference.encoder import encoder_folder
from app.training.continual import Learner, Task, learn_in_turn
from app.training.heads.per_task import Batch, HeadedEncoder, LabelledRow, accuracy, load_headed
from app.training.heads.per_task_fit import merge_adapters, train_heads
from app.training.heads.settings import HeadSettings
from app.training.matrix import Matrix
from app.training.sequence import kept_share
from app.training.settings import ContinualSettings

TIMED_TOKENS, TIMED_STEPS = 40, 4
REPLAY_SHARE = 0.5
RATES = {"trained": 1e-4, "lora": 1e-3, "peft_osf": 1e-4, "osft": 1.5e-4}
KEEP = {"keep_first": 0.2, "keep_last": 0.7}
WITH_REPLAY: dict[str, Any] = {"refit_heads": True, "rewarm_share": 0.6}
WEIGHTS = {
    "sequential": 1.0, "replay": 1.7, "replay_refit": 1.9, "lora": 1.1, "peft_osf": 2.6, "osft": 1.5,
    "osft_replay": 2.4, "joint": 1.2, "single": 0.7,
}  # fmt: skip
"""Time of a run beside fine-tuning in turn."""
IN_TURN = ("sequential", "replay", "replay_refit", "lora", "peft_osf", "osft", "osft_replay")
TOGETHER = ("joint", "single")
METHODS = (*IN_TURN, *TOGETHER)


@dataclass(frozen=True)
class Job:
    """One method on one order of the tasks."""

    method: str
    order: int
    tasks: list[str]


@dataclass(frozen=True)
class Setup:
    """What the runs share: the rows, and the settings that all methods have in common."""

    tasks: dict[str, Task]
    head: HeadSettings
    replay_rows: int
    rate_factor: float = 1.0
    rates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Accuracies by task (``joint``, ``single``) or after each task, and what it took."""

    job: Job
    matrix: Matrix | None
    accuracies: dict[str, float]
    seconds: float
    leak: float = 0.0


class PeftOsf(Learner):
    """PEFT's OSF, split anew for each task. Its adapter is merged in between: its documentation unloads it, which
    gives the task before up; and its first task trains all directions but one, since it refuses to keep none."""

    def begin(self, place: int, num_tasks: int) -> None:
        """Wrap the encoder, a larger share of its directions kept."""
        from peft import OSFConfig, get_peft_model

        how = self.continual
        share = kept_share(place, num_tasks, first=how.keep_first, last=how.keep_last)
        config = OSFConfig(target_modules="all-linear", effective_rank=max(share, 0.003))
        self.model.encoder = get_peft_model(self.model.encoder, config)

    def settle(self) -> None:
        """Merge what was learned, and take the adapter off."""
        merge_adapters(self.model)


SETUP: list[tuple[Setup, "Queue[str]"]] = []
"""The one of this process, and where it tells of each task that was learned."""


def prepare(setup: Setup, done: "Queue[str]") -> None:
    """Run in each process before its first job."""
    import torch

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    SETUP[:] = [(setup, done)]


def run(job: Job) -> Outcome:
    """Run a job; what the one before left in cycles, as PEFT's hooks do, is given back first."""
    gc.collect()
    (setup, _), began_s = SETUP[0], time.perf_counter()
    tasks = [setup.tasks[name] for name in job.tasks]
    if job.method == "joint":
        return Outcome(job, None, _joint(job, tasks, setup), time.perf_counter() - began_s)
    if job.method == "single":
        return Outcome(job, None, _single(job, tasks, setup), time.perf_counter() - began_s)
    learner = make_learner(job.method, setup)
    matrix = learn_in_turn(tasks, learner, report=partial(_report, job))
    return Outcome(job, matrix, {}, time.perf_counter() - began_s, max(learner.leaks, default=0.0))


def make_learner(method: str, setup: Setup) -> Learner:
    """The learner of one of ``IN_TURN``, with a fresh encoder."""
    kind = {"lora": "lora", "peft_osf": "peft_osf"}.get(method, "osft" if method.startswith("osft") else "trained")
    update = {
        "base": "adapted" if method == "lora" else "trained",
        "learning_rate": rate_of(kind, setup),
    }
    head = setup.head.model_copy(update=update)
    how: dict[str, dict[str, Any]] = {
        "replay_refit": WITH_REPLAY,
        "osft": KEEP,
        "osft_replay": KEEP | WITH_REPLAY,
        "peft_osf": kept_by_peft(len(setup.tasks)),
    }
    continual = ContinualSettings(
        osft=kind == "osft",
        replay_share=REPLAY_SHARE if "replay" in method else 0.0,
        replay_rows=setup.replay_rows,
        **how.get(method, {}),
    )
    return (PeftOsf if method == "peft_osf" else Learner)(fresh(setup.head), head, continual)


def kept_by_peft(num_tasks: int) -> dict[str, float]:
    """What PEFT's documentation advises for a known number of tasks: nothing kept in the first, then 1/n, 2/n, ..."""
    return {"keep_first": 0.0, "keep_last": (num_tasks - 1) / num_tasks}


def rate_of(kind: str, setup: Setup) -> float:
    """The encoder's highest learning rate."""
    return (RATES | setup.rates)[kind] * setup.rate_factor


def fresh(head: HeadSettings) -> HeadedEncoder:
    """MiniLM as published, without heads."""
    return load_headed(encoder_folder(), head)


def tokens_per_s(batch_size: int) -> float:
    """Tokens that this machine fine-tunes in a second on one thread, the best of some steps."""
    import torch

    num_threads, best_s = torch.get_num_threads(), math.inf
    torch.set_num_threads(1)
    model = fresh(HeadSettings())
    model.add_head("any", ["one", "other"])
    batch = Batch.of([LabelledRow("any", range(TIMED_TOKENS), 0)] * batch_size)
    for _ in range(TIMED_STEPS):
        began_s = time.perf_counter()
        model.loss(batch).backward()  # type: ignore[no-untyped-call]
        best_s = min(best_s, time.perf_counter() - began_s)
    torch.set_num_threads(num_threads)
    return batch_size * TIMED_TOKENS / best_s


def _joint(job: Job, tasks: Sequence[Task], setup: Setup) -> dict[str, float]:
    """All rows mixed, as many times as a method with replay shows rows."""
    passes = round(setup.head.num_epochs / (1 - REPLAY_SHARE))
    head = setup.head.model_copy(update={"num_epochs": passes, "learning_rate": rate_of("trained", setup)})
    model = fresh(head)
    for task in tasks:
        model.add_head(task.name, task.labels)
    train_heads(model, [row for task in tasks for row in task.train], head)
    return {task.name: tell(job, task.name, accuracy(model, task.test)) for task in tasks}


def _single(job: Job, tasks: Sequence[Task], setup: Setup) -> dict[str, float]:
    found = {}
    for task in tasks:
        learner = make_learner("sequential", setup)
        learner.learn(task, place=0, num_tasks=1)
        found[task.name] = tell(job, task.name, accuracy(learner.model, task.test))
    return found


def _report(job: Job, task: str, row: list[float]) -> None:
    tell(job, task, row[-1])


def tell(job: Job, task: str, found: float) -> float:
    """Tell of a task's accuracy, which comes back."""
    SETUP[0][1].put(f"{job.method}, order {job.order + 1}: {task} {found:.3f}")
    return found
