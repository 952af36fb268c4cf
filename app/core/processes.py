"""Which processes belong to a cluster, and how they are ended.

A process belongs when it carries the cluster's mark in its environment, stands in the session of a recorded leader,
or descends from one that does. All three are needed: Ray's workers overwrite their environment with a title, job
drivers open sessions of their own, and agents outlive their parents.

Guarantees: a process of anybody else is never signalled, a reused process id included (a recorded process is known by
its id *and* its start time). Not guaranteed: that a process which left its session, cleared its environment and lost
its parent is found.
"""

import os
from collections.abc import Callable, Iterable

import psutil

from app.core.settings import Settings

MARK = "SIGNALBOX_CLUSTER_ID"
_KILL_WAIT_S = 5.0
_MAX_ROUNDS = 5


class ProcessRecord(Settings):
    """One process as it was recorded: enough to recognise it again after a restart of anything."""

    name: str
    """What it does, in a word."""
    pid: int
    """Process id; the kernel reuses it."""
    started_after_boot_s: float
    """Start time in seconds since the machine's boot, which makes the id unambiguous; no clock that is set moves it."""

    @classmethod
    def of(cls, name: str, process: psutil.Process) -> "ProcessRecord":
        """The record of a live process."""
        return cls(name=name, pid=process.pid, started_after_boot_s=_start(process))

    def find(self) -> psutil.Process | None:
        """The process, when it still runs and is the one recorded."""
        try:
            process = psutil.Process(self.pid)
            same = abs(_start(process) - self.started_after_boot_s) < 0.05
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def members(mark: str, records: Iterable[ProcessRecord] = ()) -> list[psutil.Process]:
    """All live processes that belong to the cluster ``mark``, ancestors of this process not among them."""
    known = {record.pid for record in records if record.find()}
    sessions = {_session(pid) for pid in known} - {None, _session(os.getpid())}
    found = set(_where(lambda process: process.pid in known or _is_marked(process, mark)))
    sessions |= {_session(process.pid) for process in found if _session(process.pid) == process.pid}
    found |= set(_where(lambda process: _session(process.pid) in sessions))
    for process in tuple(found):
        found |= set(_children(process))
    return sorted(found - _own_line(), key=lambda process: process.pid)


def end(mark: str, records: Iterable[ProcessRecord] = (), *, grace_s: float) -> int:
    """End every process of the cluster: SIGTERM, after ``grace_s`` SIGKILL. Returns how many there were.

    Processes that are born meanwhile are found in the next round.
    """
    ended: set[psutil.Process] = set()
    recorded = list(records)
    for _ in range(_MAX_ROUNDS):
        alive = members(mark, recorded)
        if not alive:
            break
        ended |= set(alive)
        _signal(alive, psutil.Process.terminate)
        _, stubborn = psutil.wait_procs(alive, timeout=grace_s)
        _signal(stubborn, psutil.Process.kill)
        psutil.wait_procs(stubborn, timeout=_KILL_WAIT_S)
        grace_s = 0.5
    return len(ended)


def _start(process: psutil.Process) -> float:
    """``create_time`` is the boot time, as the clock tells it now, and this."""
    return process.create_time() - psutil.boot_time()


def _where(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Live processes that ``wanted`` picks; those that vanish or are another user's are not picked."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and wanted(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _is_marked(process: psutil.Process, mark: str) -> bool:
    return process.environ().get(MARK) == mark


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _own_line() -> set[psutil.Process]:
    this = psutil.Process()
    return {this, *this.parents()}


def _signal(processes: Iterable[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            send(process)
        except psutil.NoSuchProcess:
            continue
