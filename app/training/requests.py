"""What a run is asked for while it goes on: a checkpoint now (SIGUSR1), or a checkpoint and the end (SIGTERM).

A signal reaches a driver, the workers are elsewhere: the request is a file in the run's folder, which the first worker
looks for before every step and tells the others (one number, reduced). Guarantees: all workers save at the same step;
a request is met once. Not guaranteed: that a driver which is killed outright (SIGKILL) asks for anything; the last
checkpoint is what remains then. `ray job stop` sends SIGTERM and, $RAY_JOB_STOP_WAIT_TIME_S later, SIGKILL.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

NOTHING, SAVE, END = 0, 1, 2
SAME_S = 1.0
"""SIGTERM within so long of the first is the same: some send it to a process and to its group."""
FILES = {SAVE: "save.request", END: "end.request"}
SAYS = {
    signal.SIGUSR1: "signalbox: SIGUSR1: a checkpoint will be saved at the next step\n",
    signal.SIGTERM: "signalbox: SIGTERM: a checkpoint will be saved at the next step, then the run ends; "
    "once more ends it now\n",
}


def ask(folder: Path, what: int) -> None:
    """Ask the run of a folder for something."""
    (folder / FILES[what]).touch()


def forget(folder: Path) -> None:
    """Take back what was asked for."""
    for name in FILES.values():
        (folder / name).unlink(missing_ok=True)


def asked(folder: Path) -> int:
    """The most that is asked for; a request for a checkpoint is met by whoever looks, one for the end stays."""
    if (folder / FILES[END]).exists():
        return END
    try:
        (folder / FILES[SAVE]).unlink()
    except FileNotFoundError:
        return NOTHING
    return SAVE


def agreed(folder: Path, *, rank: int, num_workers: int, device: Any = "cpu") -> int:
    """What the first worker found asked for; every worker calls it at the same step."""
    found = asked(folder) if rank == 0 else NOTHING
    if num_workers == 1:
        return found
    import torch
    import torch.distributed as dist

    told = torch.tensor([found], dtype=torch.int32, device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return int(told.item())


@contextmanager
def by_signal(folder: Path) -> Iterator[None]:
    """Let SIGUSR1 and SIGTERM ask the run of a folder, for as long as the block lasts; in the main thread alone."""
    forget(folder)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SAYS}

    ended_s: list[float] = []

    def heard(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and ended_s and time.monotonic() - ended_s[0] < SAME_S:
            return
        if number == signal.SIGTERM and ended_s:
            signal.signal(number, before[signal.SIGTERM])
            signal.raise_signal(number)
            return
        os.write(2, SAYS[signal.Signals(number)].encode())
        ask(folder, SAVE if number == signal.SIGUSR1 else END)
        if number == signal.SIGTERM:
            ended_s.append(time.monotonic())

    for number in SAYS:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
