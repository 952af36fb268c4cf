"""The whole story on documents of a user's own, while somebody kills a worker, a replica and the monitor."""

import gzip
import json
import shutil
import subprocess
import sys
import threading
from contextlib import suppress

import psutil
import pytest

from app.core.cluster import down, status
from app.core.processes import members
from app.core.workspace import Workspace
from app.ledger.verify import verify

STEPS = {"SMALL_CPT": 20, "SMALL_SFT": 40, "SMALL_LORA": 10, "SMALL_CONTINUAL": 20, "LARGE_SFT": 6}
VICTIMS = ("RayTrainWorker", "ServeReplica:signalbox:retriever", "MonitorActor")
HOSTILE = 4


@pytest.fixture
def documents(tmp_path, shared_data):
    """Office files, rows of a JSON-lines file, and files that mean harm."""
    folder = tmp_path / "documents"
    folder.mkdir()
    office = (
        sorted((shared_data / "office_docs").rglob("*.docx"))[:5]
        + sorted((shared_data / "office_docs").rglob("*.xlsx"))[:3]
    )
    hostile = [
        path for path in sorted((shared_data / "hostile_samples").rglob("*")) if path.suffix in (".pdf", ".docx")
    ]
    for path in [*office, *hostile[:HOSTILE]]:
        shutil.copyfile(path, folder / path.name)
    with gzip.open(shared_data / "medquad" / "documents.jsonl.gz", "rb") as rows:
        (folder / "medquad.jsonl").write_bytes(b"".join(next(rows) for _ in range(8)))
    return folder


@pytest.fixture
def short(monkeypatch):
    """Trainings of a few steps, and small windows: the story's length, not its quality, is what this test looks at."""
    for run, num_steps in STEPS.items():
        monkeypatch.setenv(f"SIGNALBOX_TRAINING__{run}__NUM_STEPS", str(num_steps))
        monkeypatch.setenv(f"SIGNALBOX_TRAINING__{run}__WORKERS__NUM_WORKERS", "1")
    for name, value in {"REFERENCE_SIZE": 40, "WINDOW_SIZE": 20, "PERIOD_S": 2}.items():
        monkeypatch.setenv(f"SIGNALBOX_MONITORING__{name}", str(value))


class Killer:
    """Ends one process of each kind with SIGKILL as soon as it sees it; only those of one workspace's cluster."""

    def __init__(self, workspace):
        self.killed, self._workspace, self._stop = [], workspace, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(1.0) and len(self.killed) < len(VICTIMS):
            for process in self._processes():
                name = next((victim for victim in VICTIMS if victim in _title(process)), None)
                if name and name not in self.killed:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                        self.killed.append(name)

    def _processes(self):
        cluster = status(self._workspace).cluster
        return members(cluster.cluster_id, cluster.processes) if cluster else []


def _title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _play(workspace, source):
    """As a user does, in a process of its own: this one may be connected to the test session's cluster."""
    command = [sys.executable, "-m", "app.cli", "demo", "--workspace", str(workspace.root), "--source", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.cluster
@pytest.mark.chaos
@pytest.mark.data
@pytest.mark.timeout(1500)
def test_any_folder_plays_to_its_end_while_processes_die(tmp_path, documents, short):
    workspace = Workspace.find(tmp_path / "workspace")
    try:
        with Killer(workspace) as killer:
            _play(workspace, documents)
    finally:
        down(workspace)
    report = json.loads((workspace.demo_dir / "report.json").read_text())
    assert sorted(killer.killed) == sorted(VICTIMS)
    assert report["requests"]["sent"] >= 120
    assert report["requests"]["failed"] == 0
    assert report["verify"]["ok"]
    assert report["documents"] >= 10
    assert len(report["ladder"]) == 4
    assert len(report["promotions"]) == 2
    assert verify(workspace).ok
    page = (workspace.demo_dir / "report.html").read_text()
    assert page.count("<svg") == 4
