"""Which processes are found, and that nobody else's are."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.core.processes import MARK, ProcessRecord, end, members

SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
ORPHAN = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{SLEEP}'], env={{}}).pid, flush=True)"

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    return f"test-{os.getpid()}-{request.node.name}"


@pytest.fixture
def spawn(mark: str) -> Iterator[Spawn]:
    started = []

    def start(code: str, *, marked: bool = True, session: bool = True) -> "subprocess.Popen[str]":
        variables = {**os.environ, MARK: mark if marked else "another"}
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, env=variables, start_new_session=session, stdout=subprocess.PIPE, text=True)
        started.append(process)
        while not Path(f"/proc/{process.pid}/environ").read_bytes():  # a process has none for a moment after it starts
            time.sleep(0.001)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def pids(processes: list[psutil.Process]) -> list[int]:
    return [process.pid for process in processes]


def test_a_marked_process_is_a_member_and_another_is_not(spawn, mark):
    ours, other = spawn(SLEEP), spawn(SLEEP, marked=False)
    assert pids(members(mark)) == [ours.pid]
    assert end(mark, grace_s=5) == 1
    assert not psutil.pid_exists(ours.pid)
    assert other.poll() is None


def test_an_orphan_without_mark_is_found_by_its_session(spawn, mark):
    leader = spawn(f"{ORPHAN}; {SLEEP}")
    orphan = int(leader.stdout.readline())
    assert MARK not in psutil.Process(orphan).environ()
    assert pids(members(mark)) == sorted([leader.pid, orphan])
    end(mark, grace_s=5)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_ignores_sigterm_is_killed(spawn, mark):
    stubborn = spawn(STUBBORN)
    stubborn.stdout.readline()
    assert end(mark, grace_s=0.2) == 1
    assert not psutil.pid_exists(stubborn.pid)


def test_a_reused_process_id_is_no_match(spawn):
    process = psutil.Process(spawn(SLEEP, marked=False).pid)
    record = ProcessRecord.of("head", process)
    assert record.find() == process
    reused = record.model_copy(update={"started_after_boot_s": record.started_after_boot_s - 100})
    assert reused.find() is None
    assert members("nobody", [reused]) == []


def test_a_clock_that_is_set_loses_no_process(spawn, monkeypatch):
    process = psutil.Process(spawn(SLEEP, marked=False).pid)
    record = ProcessRecord.of("head", process)
    later = psutil.boot_time() + 3600
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: later)
    assert psutil.Process(process.pid).create_time() > process.create_time() + 3000
    assert record.find() == process


def test_a_record_of_a_process_that_ended_finds_nothing(spawn):
    process = spawn(SLEEP, marked=False)
    record = ProcessRecord.of("head", psutil.Process(process.pid))
    process.kill()
    time.sleep(0.1)
    assert record.find() is None


def test_the_asking_process_and_its_ancestors_are_never_members(mark, monkeypatch):
    record = ProcessRecord.of("asking", psutil.Process())
    assert os.getpid() not in pids(members(mark, [record]))
