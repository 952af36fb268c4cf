"""Ingest: is every document of a folder published or rejected, and does a killed run go on to the same version?

``jobs.ingest`` runs on a cluster of its own over each ``--source``. The files that it should find are counted here by a
walk of the folder, rows of JSON files apart; what is neither published nor rejected is lost. Then ``--killed`` is
ingested undisturbed, and in fresh workspaces with SIGKILL to the job and to one of Ray's conversion workers in the
middle; a killed job is started again. All three must publish one version digest.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from app.core.cluster import cluster_id, down, up
from app.core.errors import end_on_sigterm, exit_status
from app.core.parquet import read_rows
from app.core.processes import members
from app.core.workspace import Workspace
from app.documents.read import ROWS_FORMATS, format_of
from app.registry.tables import REJECTS_FILE
from app.registry.versions import open_registry
from benchmarks._record import record, write

POLL_S, WAIT_S = 0.02, 280.0
WORKER = "ray::MapWorker"
CRASHED = ("the converter ended with", "the converter failed")
LATE = "not converted within"
app = typer.Typer(add_completion=False)


@app.command()
def main(
    source: Annotated[list[Path] | None, typer.Option(help="Folder to ingest; may be given again.")] = None,
    killed: Annotated[Path | None, typer.Option(help="Folder whose ingest is killed; default: none.")] = None,
    kill_after: Annotated[int, typer.Option(min=1, help="Documents that are converted before the kill.")] = 40,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; what it holds of other folders stays.")] = None,
) -> None:
    """Count documents in and out, and compare the versions of killed runs with an undisturbed one."""
    with exit_status():
        end_on_sigterm()
        results: dict[str, Any] = json.loads(out.read_text())["results"] if out and out.exists() else {}
        for folder in source or []:
            results[folder.name] = count(folder.resolve())
            print(f"{folder.name}: {json.dumps(results[folder.name])}")
        if killed:
            results["killed"] = kill(killed.resolve(), after=kill_after)
            print(f"killed: {json.dumps(results['killed'])}")
        if out:
            write(record("ingest", params={}, results=results, baselines={}, ratios={}), out)


def count(folder: Path) -> dict[str, Any]:
    """Documents of a folder by what became of them."""
    with _workspace() as workspace:
        begun_s = time.perf_counter()
        status = _ingest(folder, workspace).wait(WAIT_S)
        seconds = time.perf_counter() - begun_s
        version = open_registry(workspace).get("dataset", "documents")
        rejects = read_rows(open_registry(workspace).folder(version) / REJECTS_FILE)
    facts = version.facts
    rows = sum(facts["by_format"].get(kind, 0) for kind in ROWS_FORMATS)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    row_files = sum(format_of(path.name) in ROWS_FORMATS for path in files)
    whole = [row for row in rejects if row["stage"] != "part"]
    row_rejects = sum("#" in row["source"] or format_of(row["source"]) in ROWS_FORMATS for row in whole)
    outcomes = facts["num_documents"] - rows + len(whole) - row_rejects
    return {
        "exit_status": status,
        "files": len(files),
        "files_of_rows": row_files,
        "published": facts["num_documents"],
        "rejected": facts["num_rejected"],
        "parts_rejected": facts["num_parts_rejected"],
        "lost": len(files) - row_files - outcomes,
        "crashes_of_a_converter": sum(row["reason"].startswith(CRASHED) for row in rejects),
        "out_of_time": sum(row["reason"].startswith(LATE) for row in rejects),
        "seconds": round(seconds, 1),
        "reasons": dict(Counter(_kind(row["reason"]) for row in rejects).most_common()),
    }


def kill(folder: Path, *, after: int) -> dict[str, Any]:
    """The digests of an undisturbed run and of two that were killed."""
    digests: dict[str, str] = {}
    converted: dict[str, int] = {}
    for victim in ("nobody", "the job", "a worker"):
        with _workspace() as workspace:
            process = _ingest(folder, workspace)
            if victim != "nobody":
                converted[victim] = _await_converted(workspace, after, process)
                _kill(victim, process, workspace)
            if process.wait(WAIT_S) != 0:
                process = _ingest(folder, workspace)
                process.wait(WAIT_S)
            digests[victim] = open_registry(workspace).get("dataset", "documents").digest
    same = len(set(digests.values())) == 1
    return {"folder": folder.name, "same_digest": same, "digests": digests, "converted_before_the_kill": converted}


def _kill(victim: str, process: "subprocess.Popen[bytes]", workspace: Workspace) -> None:
    """SIGKILL to the job, or to one of Ray's workers that convert."""
    if victim == "the job":
        process.kill()
        return
    workers = [each for each in members(cluster_id(workspace)) if _title(each).startswith(WORKER)]
    workers[0].kill()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _await_converted(workspace: Workspace, number: int, process: "subprocess.Popen[bytes]") -> int:
    """Wait until so many outcomes are in the spool of a job that still runs."""
    while process.poll() is None:
        spooled = [path.read_bytes().count(b"\n") for path in (workspace.root / "ingest").glob("*.jsonl")]
        if spooled and spooled[0] >= number:
            return spooled[0]
        time.sleep(POLL_S)
    raise typer.BadParameter(f"the job ended before {number} documents were converted: ask for fewer by --kill-after")


def _ingest(folder: Path, workspace: Workspace) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "jobs.ingest", "--source", str(folder), "--name", "documents"]
    return subprocess.Popen([*command, "--workspace", str(workspace.root)], stdout=subprocess.DEVNULL)


@contextmanager
def _workspace() -> Iterator[Workspace]:
    """An empty workspace with a cluster of two processors."""
    from app.core.cluster_state import ClusterSettings

    with tempfile.TemporaryDirectory(prefix="ingest-") as folder:
        workspace = Workspace.find(Path(folder) / "workspace")
        os.environ.pop("RAY_ADDRESS", None)
        up(workspace, settings=ClusterSettings(num_cpus=2))
        try:
            yield workspace
        finally:
            down(workspace)


def _kind(reason: str) -> str:
    """A reason without what differs from document to document."""
    return reason.split(":")[0].split(" (")[0][:80]


if __name__ == "__main__":
    app()
