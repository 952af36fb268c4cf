"""Which kind of vector index for which size: build time, query time, recall against the exact search, bytes.

Vectors are made up: unit vectors of 384 numbers around centres that lie around other centres, as text's do; questions
lie near some of them. The baseline is the flat index (exact), in the same run, on one thread.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from app.core.errors import exit_status
from app.retrieval import vectors as kinds
from benchmarks._record import record, write

DIM, DEPTH = 384, 10
KINDS = ("flat", "ivf", "ivf-rabitq", "hnsw")

app = typer.Typer(add_completion=False)


@app.command()
def main(
    sizes: Annotated[list[int] | None, typer.Option(help="Numbers of vectors; default: 10,000 and 100,000.")] = None,
    queries: Annotated[int, typer.Option(help="Questions.")] = 200,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the vectors.")] = 0,
) -> None:
    """Build, map and search every kind of index at every size."""
    import faiss

    faiss.omp_set_num_threads(1)
    with exit_status():
        results: dict[str, Any] = {}
        for size in sizes or (10_000, 100_000):
            for name, figures in measure(size, num_queries=queries, seed=seed):
                results[f"{size}_{name}"] = figures
                print(
                    f"{size:>9} {name:12}",
                    ", ".join(f"{key} {value:.4g}" for key, value in figures.items()),
                    flush=True,
                )
        flat = {key: each for key, each in results.items() if key.endswith("_flat")}
        ratios = {
            f"{key}_query_vs_flat": each["query_ms"] / flat[f"{key.partition('_')[0]}_flat"]["query_ms"]
            for key, each in results.items()
        }
        params = {"queries": queries, "dim": DIM, "seed": seed}
        if out:
            write(record("index_kinds", params=params, results=results, baselines=flat, ratios=ratios), out)


def measure(size: int, *, num_queries: int, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Figures of every kind at one size."""
    vectors, asked = made_up(size, num_queries, seed)
    exact: NDArray[np.int64] | None = None
    for kind in KINDS:
        started_s = time.perf_counter()
        index = kinds.build(vectors, kind)
        build_s = time.perf_counter() - started_s
        with tempfile.TemporaryDirectory() as folder:
            mapped, num_bytes = _mapped(index, Path(folder) / "index.faiss")
            for row in asked[:5]:
                kinds.search(mapped, row[None], 100)
            found, times = zip(*(_search(mapped, row) for row in asked), strict=True)
        near = np.stack(found)
        exact = near if exact is None else exact
        shared = [len({*one} & {*other}) / DEPTH for one, other in zip(near, exact, strict=True)]
        yield (
            kind,
            {"recall_at_10": float(np.mean(shared)), "query_ms": median(times), "build_s": build_s, "bytes": num_bytes},
        )


def made_up(size: int, num_queries: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors (size, 384) and questions (num_queries, 384), unit length."""
    random = np.random.default_rng(seed)
    themes = random.normal(size=(50, DIM))
    centres = themes[random.integers(0, 50, size // 20)] + 0.8 * random.normal(size=(size // 20, DIM))
    vectors = (centres[random.integers(0, len(centres), size)] + 0.8 * random.normal(size=(size, DIM))).astype(
        np.float32
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[random.choice(size, num_queries)] + 0.04 * random.normal(size=(num_queries, DIM)).astype(np.float32)
    return vectors, (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)


def _mapped(index: Any, path: Path) -> tuple[Any, int]:
    import faiss

    faiss.write_index(index, str(path))
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), path.stat().st_size


def _search(index: Any, row: NDArray[np.float32]) -> tuple[NDArray[np.int64], float]:
    """The ten nearest of the hundred candidates that a search asks for, and the ms that it took."""
    started_s = time.perf_counter()
    _, ids = kinds.search(index, row[None], 100)
    return ids[0, :DEPTH], 1000 * (time.perf_counter() - started_s)


if __name__ == "__main__":
    app()
