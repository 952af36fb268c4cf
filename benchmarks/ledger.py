"""What does a proof cost: appends, proofs and verification of the ledger, beside a plain INSERT of the same rows.

The baseline is a table of the leaves' columns (index, kind, subject, bytes) with a primary key and no index, hash, tree
or signature, filled by the same driver call in the same batches of the same statements. Ledger and baseline alternate
batch by batch, so that a noisy machine slows both alike. PostgreSQL runs with its defaults where it is installed,
and the file says so where it is not.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table

from app.core.database import Database, insert_rows, open_database
from app.core.digests import digest_bytes
from app.core.errors import exit_status
from app.core.workspace import Workspace
from app.ledger.keys import load_or_create
from app.ledger.log import SERVICE_KEY, Ledger, Statement
from app.ledger.proofs import prove_inclusion
from app.ledger.verify import verify
from benchmarks import _postgresql
from benchmarks._record import record, write

SIZES = (10_000, 100_000, 1_000_000)
WRITERS = (1, 4)
NUM_PROOFS = 1000
PLAIN = Table(
    "plain_rows",
    MetaData(),
    Column("leaf_index", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(71), nullable=False),
    Column("leaf", LargeBinary, nullable=False),
)

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    leaves: Annotated[
        list[int] | None, typer.Option(help="A size to measure at, may be repeated; default: 10^4, 10^5 and 10^6.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Leaves in a batch.", min=1)] = 10_000,
    race: Annotated[int, typer.Option(help="Leaves of each batched race of writers.")] = 20_000,
    singles: Annotated[int, typer.Option(help="Leaves of each race of single appends.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the leaves that are proven.")] = 0,
) -> None:
    """Measure the ledger on SQLite and, where it is installed, on PostgreSQL."""
    sizes = sorted(leaves or SIZES)
    with exit_status(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        grown = grow(folder / "grown", sizes, batch=batch, rng=random.Random(seed))
        races = {}
        for name, make in _databases(stack, folder):
            for num_writers in WRITERS:
                for kind, num_leaves, size in (("single", singles, 1), ("batched", race, min(batch, race // 8))):
                    print(f"{name}, {num_writers} writers, {kind}", flush=True)
                    raced = compete(make, num_writers=num_writers, num_leaves=num_leaves, batch=max(size, 1))
                    races[f"{name}_{kind}_{num_writers}_writers"] = raced
        params = {"leaves": sizes, "batch": batch, "race": race, "singles": singles, "seed": seed}
        figures = figures_of(grown, races, params)
        print(table(figures))
        if out:
            write(figures, out)


def grow(root: Path, sizes: Sequence[int], *, batch: int, rng: random.Random) -> dict[str, Any]:
    """Grow a ledger and a plain table side by side on SQLite; at each size measure appends, proofs and verification."""
    workspace = Workspace.find(root)
    ledger = _ledger(workspace.database_url, workspace.keys_dir)
    plain = _plain(f"sqlite:///{root / 'plain.db'}")
    spent = {"append": 0.0, "insert": 0.0}
    measured: dict[str, Any] = {}
    for start in range(0, sizes[-1], batch):
        said = statements("grown", start, min(start + batch, sizes[-1]))
        spent["insert"] += _timed(partial(insert, plain, start, said))
        spent["append"] += _timed(partial(ledger.append, said))
        if (size := start + len(said)) in sizes:
            proofs = _proofs(ledger, size, rng)
            named = f"{size:.0e}".replace("e+0", "e")
            measured[named] = {**spent, "num_leaves": size, **proofs, **_verified(workspace)}
            print(f"{named} leaves: {measured[named]}", flush=True)
    return measured


def compete(make: Callable[[], str], *, num_writers: int, num_leaves: int, batch: int) -> dict[str, float]:
    """Leaves each second of ledger and plain table, each with writers of their own, one after the other."""
    rates = {}
    for kind in ("insert", "append"):
        url = make()
        with tempfile.TemporaryDirectory() as keys:
            (_plain if kind == "insert" else open_database)(url)
            load_or_create(Path(keys), SERVICE_KEY, "service")
            share = max(num_leaves // num_writers // batch, 1) * batch
            rates[f"{kind}s_per_s"] = num_writers * share / _race(kind, url, keys, num_writers, share, batch)
    return rates


def statements(name: str, start: int, end: int) -> list[Statement]:
    """Leaves that name no artifact, so that verification is of the log alone."""
    digests = [digest_bytes(f"{name}/{index}".encode()) for index in range(start - 1, end)]
    named = zip(range(start, end), digests[1:], digests[:-1], strict=True)
    return [
        Statement(kind="trigger", subject=digest, name=f"{name}/{index}", parents=(before,))
        for index, digest, before in named
    ]


def insert(database: Database, start: int, said: Sequence[Statement]) -> None:
    """The baseline: the same rows, in one transaction; on PostgreSQL without the ledger's lock, as inserts go there."""
    rows = [(index, each.kind, each.subject, each.to_bytes()) for index, each in enumerate(said, start=start)]
    sqlite = database.url.startswith("sqlite")
    with database.write() if sqlite else database.engine.begin() as connection:
        insert_rows(connection, PLAIN, rows)


def figures_of(grown: dict[str, Any], races: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Everything measured as a benchmark's figures; sizes are written 1e4, 1e5, 1e6."""
    results: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for size, each in grown.items():
        for name in ("proof_ms", "proof_bytes", "verify_s", "verify_cpu_s"):
            results[f"{name}_{size}"] = each[name]
        results[f"appends_per_s_{size}"] = each["num_leaves"] / each["append"]
        ratios[f"append_batched_vs_insert_{size}"] = each["append"] / each["insert"]
    last = next(reversed(grown.values()))
    ratios["append_batched_vs_insert"] = last["append"] / last["insert"]
    for name, each in races.items():
        ratios[f"append_vs_insert_{name}"] = each["inserts_per_s"] / each["appends_per_s"]
    baselines = {f"inserts_per_s_{size}": each["num_leaves"] / each["insert"] for size, each in grown.items()}
    return record(
        "ledger",
        params={**params, "postgresql": any(name.startswith("postgresql") for name in races)},
        results={**results, "appends_per_s": {name: each["appends_per_s"] for name, each in races.items()}},
        baselines={**baselines, "inserts_per_s": {name: each["inserts_per_s"] for name, each in races.items()}},
        ratios=ratios,
    )


def table(figures: dict[str, Any]) -> str:
    """README's table."""
    results, ratios = figures["results"], figures["ratios"]
    lines = ["| | ledger | plain INSERT | time over time |", "| --- | --- | --- | --- |"]
    for name, rate in results["appends_per_s"].items():
        plain, ratio = figures["baselines"]["inserts_per_s"][name], ratios[f"append_vs_insert_{name}"]
        lines.append(f"| {name.replace('_', ' ')} | {rate:,.0f}/s | {plain:,.0f}/s | {ratio:.2f} |")
    for size in (key.removeprefix("proof_ms_") for key in results if key.startswith("proof_ms_")):
        plain, rate = figures["baselines"][f"inserts_per_s_{size}"], results[f"appends_per_s_{size}"]
        ratio = ratios[f"append_batched_vs_insert_{size}"]
        lines.append(f"| sqlite batched, grown to {size} | {rate:,.0f}/s | {plain:,.0f}/s | {ratio:.2f} |")
        proof = f"{results[f'proof_ms_{size}']:.2f} ms, {results[f'proof_bytes_{size}']:,.0f} bytes"
        lines.append(f"| inclusion proof at {size} | {proof} | | |")
        taken = f"{results[f'verify_s_{size}']:.1f} s, {results[f'verify_cpu_s_{size}']:.1f} s of them computing"
        lines.append(f"| full verification at {size} | {taken} | | |")
    return "\n".join(lines)


def _databases(stack: ExitStack, folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each kind of database that is here, with a way to get the URL of an empty one."""
    numbers = iter(range(1_000_000))
    yield "sqlite", lambda: f"sqlite:///{folder / f'race{next(numbers)}.db'}"
    found = _postgresql.binaries()
    if found is None:
        print("PostgreSQL is not installed: measured on SQLite alone", flush=True)
        return
    server = stack.enter_context(_postgresql.server(found))
    yield "postgresql", lambda: _postgresql.new_database(server, f"race{next(numbers)}")


def _ledger(url: str, keys: Path) -> Ledger:
    return Ledger(open_database(url), load_or_create(keys, SERVICE_KEY, "service"))


def _plain(url: str) -> Database:
    database = Database(url)
    PLAIN.metadata.create_all(database.engine)
    return database


def _timed(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def _proofs(ledger: Ledger, size: int, rng: random.Random) -> dict[str, float]:
    """Median time, from the database to the file's bytes, and largest size of proofs of random leaves."""
    times, sizes = [], []
    for index in (rng.randrange(size) for _ in range(NUM_PROOFS)):
        started_s = time.perf_counter()
        proof = prove_inclusion(ledger, index).to_bytes()
        times.append(time.perf_counter() - started_s)
        sizes.append(len(proof))
    return {"proof_ms": statistics.median(times) * 1000, "proof_bytes": max(sizes)}


def _verified(workspace: Workspace) -> dict[str, float]:
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    report = verify(workspace)
    taken_s, taken_cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    if not report.ok:
        raise RuntimeError(f"the benchmark's own ledger does not verify: {report.faults[0]}")
    return {"verify_s": taken_s, "verify_cpu_s": taken_cpu_s}


def _race(kind: str, url: str, keys: str, num_writers: int, share: int, batch: int) -> float:
    """Seconds from the start of the first writer to the end of the last, all ready before."""
    context = get_context("spawn")
    barrier, spans = context.Barrier(num_writers), context.Queue()
    writers = [
        context.Process(target=_write, args=(kind, url, keys, number, share, batch, barrier, spans))
        for number in range(num_writers)
    ]
    for writer in writers:
        writer.start()
    found = [spans.get(timeout=300) for _ in writers]
    for writer in writers:
        writer.join()
    return max(end for _, end in found) - min(start for start, _ in found)


def _write(kind: str, url: str, keys: str, number: int, share: int, batch: int, barrier: Any, spans: Any) -> None:
    said = statements(f"w{number}", 0, share)
    ledger = _ledger(url, Path(keys)) if kind == "append" else None
    database = ledger.database if ledger else Database(url)
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    barrier.wait(120)
    started_s = time.monotonic()
    for start in range(0, share, batch):
        part = said[start : start + batch]
        if ledger:
            ledger.append(part)
        else:
            insert(database, number * share + start, part)
    spans.put((started_s, time.monotonic()))


if __name__ == "__main__":
    app()
