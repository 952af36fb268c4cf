"""How fast is the blast radius of one document found, among a million chunks?

Builds a workspace of published versions: datasets that grow from version to version to ``--chunks`` chunks, an index on
each, synthetic rows, models trained on them (leaves and manifests; no weights), releases, one of them in production,
and a request log. Then it asks for the impact of documents at the beginning, in the middle and at the end, alternating
with the baseline: the same question by reading every table of every version whole, and filtering in memory.
"""

import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from app.core.clock import utc_now
from app.core.errors import exit_status
from app.core.parquet import ROW_GROUP_SIZE, parts_of
from app.core.workspace import Workspace
from app.governance.impact import Impact, find_impact
from app.ledger.batches import batch_statement, write_part
from app.ledger.log import PRODUCTION, PROMOTION, Statement
from app.registry.tables import CHUNKS, CHUNKS_FILE, DOCUMENTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version, open_registry
from benchmarks._record import record, write

CHUNKS_PER_DOCUMENT, CHUNKS_PER_ROW, WORDS_PER_CHUNK = 20, 5, 40
GROWTH = (0.5, 0.75, 1.0)
"""Sizes of the dataset's versions, as parts of the last one."""
NUM_ANSWERS, PART_ROWS = 20_000, 1_000
DOCUMENTS = pa.schema([(name, pa.string()) for name in ("document_id", "source", "title", "format")])
ROWS = pa.schema(
    [(name, pa.string()) for name in ("row_id", "question", "answer", "chunk_id", "document_id", "source", "split")]
)

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    chunks: Annotated[int, typer.Option(min=1000, help="Chunks of the newest dataset version.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Questions of each kind, spread over the documents.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the texts.")] = 0,
) -> None:
    """Build the versions in a fresh workspace, ask both ways in turns, and print the times."""
    with exit_status(), tempfile.TemporaryDirectory(prefix="impact-") as folder:
        registry = open_registry(Workspace.find(Path(folder) / "workspace"))
        began_s = time.perf_counter()
        build(registry, num_chunks=chunks, seed=seed)
        build_s = time.perf_counter() - began_s
        figures = measure(registry, num_chunks=chunks, repeats=repeats, seed=seed, build_s=build_s)
        print(table(figures))
        if out:
            write(figures, out)


def build(registry: Registry, *, num_chunks: int, seed: int) -> None:
    """Publish the versions, put the last but one release into production, and log answers of both."""
    releases = []
    for number, share in enumerate(GROWTH, 1):
        count = int(num_chunks * share)
        dataset = _publish(registry, "dataset", number, lambda to, count=count: _write_dataset(to, count, seed))
        index = registry.publish("index", "handbook", inputs={"n": number}, parents=[dataset.digest])
        rows = _publish(registry, "synthetic", number, lambda to, count=count: _write_rows(to, count), dataset)
        model = registry.publish("model", "small", inputs={"n": number}, parents=[rows.digest])
        parts = {"small": model.digest, "index": index.digest, "dataset": dataset.digest}
        parents = list(parts.values())
        releases.append(registry.publish("release", "assistant", inputs={"n": number}, parents=parents, facts=parts))
    _promote(registry, releases[-2])
    _log_answers(registry, releases[-2:], num_chunks)


def measure(registry: Registry, *, num_chunks: int, repeats: int, seed: int, build_s: float) -> dict[str, Any]:
    """Ask both ways in turns, about documents spread over the newest dataset; both must find the same."""
    find_impact(registry, _source(0))
    found_s, scanned_s, found = [], [], []
    num_documents = num_chunks // CHUNKS_PER_DOCUMENT
    for number in range(repeats):
        source = _source(number * (num_documents - 1) // max(1, repeats - 1))
        taken_s, impact = _timed(lambda source=source: find_impact(registry, source))
        found_s.append(taken_s)
        taken_s, scanned = _timed(lambda source=source: scan(registry, source))
        scanned_s.append(taken_s)
        assert _numbers(impact) == scanned, (_numbers(impact), scanned)
        found.append(impact.counts())
    command_s = [_timed(lambda: _command(registry, _source(num_documents // 2)))[0] for _ in range(repeats)]
    ours_s, baseline_s = statistics.median(found_s), statistics.median(scanned_s)
    files = [path for path in registry.workspace.root.rglob("*.parquet")]
    return record(
        "impact",
        params={
            "chunks_newest": num_chunks,
            "chunks_all_versions": sum(int(num_chunks * share) for share in GROWTH),
            "dataset_versions": len(GROWTH),
            "answers": NUM_ANSWERS,
            "row_group_rows": ROW_GROUP_SIZE,
            "repeats": repeats,
            "seed": seed,
        },
        results={
            "impact_s": ours_s,
            "impact_max_s": max(found_s),
            "command_s": statistics.median(command_s),
            "found": found[0],
            "build_s": build_s,
            "parquet_bytes": sum(path.stat().st_size for path in files),
        },
        baselines={"full_scan_s": baseline_s, "full_scan_max_s": max(scanned_s)},
        ratios={"impact_vs_full_scan": ours_s / baseline_s},
    )


def scan(registry: Registry, source: str) -> dict[str, int]:
    """The baseline: read every table whole, filter in memory; numbers of chunks, rows and citing answers."""
    chunks = [_rows_with(registry, version, CHUNKS_FILE, source) for version in registry.versions("dataset")]
    rows = [_rows_with(registry, version, ROWS_FILE, source) for version in registry.versions("synthetic")]
    ids = {row["document_id"] for found in chunks for row in found.select(["document_id"]).to_pylist()}
    cited = 0
    for path in parts_of(registry.workspace.requests_dir):
        citations = pq.read_table(path)["citations"].to_pylist()
        cited += sum(any(each["document_id"] in ids for each in cites or ()) for cites in citations)
    return {"chunks": sum(map(len, chunks)), "rows": sum(map(len, rows)), "cited": cited}


def table(figures: dict[str, Any]) -> str:
    """README's table."""
    results, baselines = figures["results"], figures["baselines"]
    return "\n".join(
        [
            "| way | median | slowest |",
            "| --- | --- | --- |",
            f"| impact of a document | {results['impact_s']:.2f} s | {results['impact_max_s']:.2f} s |",
            f"| the command, with its start | {results['command_s']:.2f} s | |",
            f"| full scan | {baselines['full_scan_s']:.2f} s | {baselines['full_scan_max_s']:.2f} s |",
        ]
    )


def _command(registry: Registry, source: str) -> None:
    """`signalbox impact` as a person runs it, with the start of Python and the imports."""
    command = [sys.executable, "-m", "app.cli", "impact", source, "--workspace", str(registry.workspace.root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _numbers(impact: Impact) -> dict[str, int]:
    return {
        "chunks": impact.chunks.num_rows,
        "rows": impact.rows.num_rows,
        "cited": impact.counts()["answers that cite it"],
    }


def _rows_with(registry: Registry, version: Version, name: str, source: str) -> pa.Table:
    whole = pq.read_table(registry.folder(version) / name)
    return whole.filter(pc.equal(whole["source"], source))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began_s = time.perf_counter()
    done = work()
    return time.perf_counter() - began_s, done


def _publish(registry: Registry, kind: str, number: int, fill: Callable[[Path], None], *parents: Version) -> Version:
    name = "handbook" if kind == "dataset" else "handbook-qa"
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        behind = [parent.digest for parent in parents]
        return registry.publish(kind, name, folder=Path(folder), inputs={"n": number}, parents=behind)


def _write_dataset(folder: Path, num_chunks: int, seed: int) -> None:
    """Chunks in the order of their sources, as the documents stage writes them."""
    numbers = range(num_chunks // CHUNKS_PER_DOCUMENT)
    documents = [
        {"document_id": _digest("document", n), "source": _source(n), "title": f"Page {n}", "format": "md"}
        for n in numbers
    ]
    _write(folder / DOCUMENTS_FILE, iter([pa.Table.from_pylist(documents, schema=DOCUMENTS)]), DOCUMENTS)
    _write(folder / CHUNKS_FILE, _chunk_groups(num_chunks, seed), CHUNKS)


def _chunk_groups(num_chunks: int, seed: int) -> Iterator[pa.Table]:
    for start in range(0, num_chunks, ROW_GROUP_SIZE):
        numbers = range(start, min(start + ROW_GROUP_SIZE, num_chunks))
        documents = [number // CHUNKS_PER_DOCUMENT for number in numbers]
        columns = {
            "chunk_id": [_digest("chunk", number) for number in numbers],
            "document_id": [_digest("document", number) for number in documents],
            "source": [_source(number) for number in documents],
            "title": [f"Page {number}" for number in documents],
            "heading_path": [[f"Page {number}", "Section"] for number in documents],
            "ordinal": [number % CHUNKS_PER_DOCUMENT for number in numbers],
            "text": [_text(number, seed) for number in numbers],
        }
        yield pa.table(columns, schema=CHUNKS)


def _write_rows(folder: Path, num_chunks: int) -> None:
    """A question for every few chunks, in the order of their ids, as the synthesis stage writes them."""
    rows = []
    for number in range(0, num_chunks, CHUNKS_PER_ROW):
        document = number // CHUNKS_PER_DOCUMENT
        row = {"row_id": _digest("row", number), "question": f"What is {number}?", "answer": str(number)}
        row |= {"chunk_id": _digest("chunk", number), "document_id": _digest("document", document)}
        rows.append({**row, "source": _source(document), "split": "train"})
    rows.sort(key=lambda row: row["row_id"])
    _write(folder / ROWS_FILE, iter([pa.Table.from_pylist(rows, schema=ROWS)]), ROWS)


def _write(path: Path, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
    """As ``app.core.parquet.write_rows`` writes, but a row group at a time."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for each in tables:
            writer.write_table(each, row_group_size=ROW_GROUP_SIZE)


def _promote(registry: Registry, release: Version) -> None:
    """Set the alias and its leaf; the gates and approvals before it are not what is measured."""
    from app.core.schema import aliases, versions

    name = f"release/{release.name}"
    statement = Statement(PROMOTION, release.digest, name=name)
    with registry.database.write() as connection:
        row = connection.execute(versions.select().where(versions.c.digest == release.digest)).one()
        values = {"kind": "release", "name": release.name, "alias": PRODUCTION, "version_id": row.id}
        connection.execute(aliases.insert().values(**values, updated_at=statement.time))
        registry.ledger.append([statement], connection=connection)


def _log_answers(registry: Registry, releases: list[Version], num_chunks: int) -> None:
    """Every answer cites two chunks; documents take turns."""
    folder = registry.workspace.requests_dir
    folder.mkdir(parents=True)
    begin = utc_now() - timedelta(days=1)
    for part in range(NUM_ANSWERS // PART_ROWS):
        rows = []
        for number in range(part * PART_ROWS, (part + 1) * PART_ROWS):
            cited = [(number * 37 + step) % num_chunks for step in (0, 1)]
            citations = [
                {"document_id": _digest("document", n // CHUNKS_PER_DOCUMENT), "chunk_id": _digest("chunk", n)}
                for n in cited
            ]
            row = {"request_id": f"r{number}", "time": begin + timedelta(seconds=number), "citations": citations}
            row |= {"release": releases[number % 2].digest, "route": ("small", "extractive")[number % 3 == 0]}
            rows.append({**row, "question": f"What is {number}?", "answer": str(number)})
        path = folder / f"part{part:04}.parquet"
        write_part(path, rows)
        registry.ledger.append([batch_statement(path)])


def _source(number: int) -> str:
    return f"handbook/{number:07}.md"


def _digest(kind: str, number: int) -> str:
    return "sha256:" + hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


def _text(number: int, seed: int) -> str:
    """Words that do not compress to nothing."""
    digits = hashlib.shake_256(f"{seed} {number}".encode()).hexdigest(WORDS_PER_CHUNK * 3)
    return " ".join(digits[place : place + 6] for place in range(0, len(digits), 6))


if __name__ == "__main__":
    app()
