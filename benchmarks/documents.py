"""Documents: how fast are files converted with one worker and with two, beside a plain loop over docling's converter,
how does memory grow with the folder, and how close are text and structure to reviewed conversions?

All run over the same files, one after another in the same run. Speeds are of the time in which documents are converted;
the start of Ray's workers and the import of docling are given apart (``start_s``), and the ratios with them, too. The
baseline makes Markdown; ours also cuts it into chunks, counts their tokens and tells their language. Docling's loop
skips what it cannot read. Pages are those of docling's count; a document without pages is one.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from app.core.errors import exit_status
from app.documents.pipeline import convert_files, write_tables
from app.documents.read import ROWS_FORMATS, Scan, SourceFile, scan
from app.documents.settings import MIB, DocumentSettings
from app.documents.spool import Spool
from app.documents.work import split_work
from benchmarks._fidelity import fidelity
from benchmarks._record import record, write

GROWTH = 10
SAMPLE_S = 0.25
app = typer.Typer(add_completion=False)


@app.command()
def main(
    source: Annotated[Path | None, typer.Option(help="Folder of documents; default: the demo's handbook.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Folder with index.jsonl.gz and reviewed conversions.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    files: Annotated[int, typer.Option(help="Take at most so many files, spread over the folder.")] = 400,
    grown_files: Annotated[int, typer.Option(help="Files of the folder that is grown ten times.")] = 60,
    rounds: Annotated[int, typer.Option(help="Rounds over all three; the median counts.")] = 1,
) -> None:
    """Convert a folder by docling's loop, by one worker and by two, then a folder and ten of it."""
    with exit_status(), tempfile.TemporaryDirectory() as folder:
        figures = measure(
            _source(source, Path(folder)), files=files, grown_files=grown_files, rounds=rounds, truth=truth
        )
        for name, value in {**figures["results"], **figures["ratios"]}.items():
            print(f"{name:28} {json.dumps(value)}")
        if out:
            write(figures, out)


def measure(source: Path, *, files: int, grown_files: int, rounds: int, truth: Path | None) -> dict[str, Any]:
    """The benchmark's figures."""
    settings = DocumentSettings(limits={"timeout_s": 120})  # type: ignore[arg-type]
    found = [each for each in scan(source, limits=settings.limits).files if each.format not in ROWS_FORMATS]
    chosen = found[:: -(-len(found) // files)]
    runs: dict[str, list[dict[str, float]]] = {"docling": [], "one_worker": [], "two_workers": []}
    with _cluster():
        for _ in range(rounds):
            runs["docling"].append(_docling(chosen))
            runs["one_worker"].append(_ours(chosen, settings, num_workers=1))
            runs["two_workers"].append(_ours(chosen, settings, num_workers=2))
        peaks = [_peak(_grown(chosen[:grown_files], times), settings) for times in (1, GROWTH)]
    results: dict[str, Any] = {name: _rates(each, chosen, runs["docling"]) for name, each in runs.items()}
    results["peak_memory_bytes"] = dict(zip(("folder", "ten_times"), peaks, strict=True))
    results |= {"fidelity": fidelity(truth)} if truth else {}
    base = results["docling"]
    ratios = {"peak_memory_10x": peaks[1] / peaks[0]}
    for name in ("one_worker", "two_workers"):
        ratios[f"{name}_vs_docling"] = results[name]["documents_per_s"] / base["documents_per_s"]
        ratios[f"{name}_vs_docling_with_start"] = results[name]["with_start_s"] and (
            base["with_start_s"] / results[name]["with_start_s"]
        )
    params = {"files": len(chosen), "bytes": sum(each.num_bytes for each in chosen), "rounds": rounds}
    return record("documents", params=params, results=results, baselines={"docling": base}, ratios=ratios)


def _docling(files: list[SourceFile]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "files.json", Path(folder) / "out.json"
        listed.write_text(json.dumps([str(each.path) for each in files]))
        command = [sys.executable, "-m", "benchmarks._docling_loop", str(listed), str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        figures: dict[str, float] = json.loads(out.read_text())
    return figures


def _ours(files: list[SourceFile], settings: DocumentSettings, *, num_workers: int) -> dict[str, float]:
    """Seconds until a worker begins with its first document, and from then until the last is in the spool."""
    settings = settings.model_copy(update={"num_workers": num_workers})
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "spool.jsonl") as spool:
        asked_s = time.time()
        convert_files(split_work(files, num_workers=num_workers, limit=None), spool, settings=settings)
        ended_s = time.time()
        outcomes = [(outcome["begun_s"], outcome["document"] is not None) for outcome in spool.outcomes()]
    begun_s = min(begun for begun, _ in outcomes)
    converted = sum(is_there for _, is_there in outcomes)
    return {"start_s": begun_s - asked_s, "convert_s": ended_s - begun_s, "num_converted": converted}


def _peak(files: list[SourceFile], settings: DocumentSettings) -> float:
    """Bytes of memory that this process and those below it hold at most while files become tables."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            peak[0] = max(peak[0], sum(_own_bytes(each) for each in _processes()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "spool.jsonl") as spool:
        convert_files(split_work(files, num_workers=2, limit=None), spool, settings=settings)
        write_tables(Path(folder), Scan(), spool.outcomes(), source="the folder")
        done.set()
        thread.join()
    return peak[0]


def _processes() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _own_bytes(process: psutil.Process) -> int:
    """Memory that is not shared with another process."""
    try:
        info = process.memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - info.shared)


def _grown(files: list[SourceFile], times: int) -> list[SourceFile]:
    """The files so many times over, each under a name of its own."""
    numbers = count()
    return [
        SourceFile(each.path, f"{next(numbers)}/{each.source}", each.format, each.digest, each.num_bytes)
        for _ in range(times)
        for each in files
    ]


def _rates(runs: list[dict[str, float]], files: list[SourceFile], docling: list[dict[str, float]]) -> dict[str, float]:
    middle = sorted(runs, key=lambda run: run["convert_s"])[len(runs) // 2]
    seconds, num_bytes = middle["convert_s"], sum(each.num_bytes for each in files)
    return {
        "documents_per_s": len(files) / seconds,
        "pages_per_s": docling[0]["num_pages"] / seconds,
        "mb_per_s": num_bytes / MIB / seconds,
        "num_converted": middle["num_converted"],
        "start_s": middle["start_s"],
        "with_start_s": middle["start_s"] + seconds,
    }


@contextmanager
def _cluster() -> Iterator[None]:
    """A Ray of this process's own, on loopback, its folder short enough for sockets."""
    import ray

    place = tempfile.mkdtemp(prefix="sbd", dir="/tmp")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=place)
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def _source(source: Path | None, folder: Path) -> Path:
    if source is not None:
        return source
    from app.demo.corpus import write_corpus

    write_corpus(folder)
    return folder


if __name__ == "__main__":
    app()
