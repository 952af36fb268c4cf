"""Rows examined on a cluster, with Ray Data; few rows in this process, since workers cost seconds to start.

Guarantees: what comes back is in the order of the rows, whatever the workers' order; every row comes back once, or
nothing is published; rows give the same wherever they are examined. The driver holds the rows, and for each the hashes
of its runs of words, by which near-duplicates are then told (:mod:`app.core.resemblance`).
Not guaranteed: that workers pay on a machine that is busy with other work.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from app.datasets.curate import Curation, Examine, Examined, Row, RowsLost, assess
from app.datasets.examine import Examiner, whole_text
from app.datasets.settings import DatasetSettings, QualitySettings
from app.registry.versions import Registry, Version

COMPARED = {"signature": np.uint32, "runs": np.uint64, "own_runs": np.uint64}
RESULT = pa.schema({"place": pa.int64(), "found": pa.string(), **dict.fromkeys(COMPARED, pa.large_binary())})
NOTHING = np.empty(0, np.uint64)
"""In the place of a row's own runs where these are all of them; none of a text's is ever empty."""
BLOCKS_PER_WORKER = 4


def assess_on_cluster(version: Version, *, registry: Registry, settings: DatasetSettings) -> Version:
    """The quality report on a version of documents or rows, beside it; the one there is, where it was made before."""
    return assess(version, by=Curation(registry, settings, on_cluster))


def on_cluster(settings: DatasetSettings, suites: Mapping[str, list[Row]]) -> Examine:
    """Who examines rows on the cluster that this process is connected to, where there are enough of them."""
    ray.data.DataContext.get_current().enable_progress_bars = False

    def examine(rows: Sequence[Row]) -> Examined:
        num = num_workers(rows, settings)
        return _examine(rows, num, settings, suites) if num > 1 else here(settings, suites)(rows)

    return examine


def here(settings: DatasetSettings, suites: Mapping[str, list[Row]]) -> Examine:
    """Who examines rows in this process."""
    return Examiner(settings.quality, suites)


def num_workers(rows: Sequence[Row], settings: DatasetSettings) -> int:
    """Workers that the rows' text is worth; less than two when this process is quicker."""
    return min(settings.num_workers, sum(len(whole_text(row)) for row in rows) // settings.worker_chars)


class RowActor:
    """Examines batches of rows; one recogniser and one encoder each."""

    def __init__(self, settings: QualitySettings, suites: Mapping[str, list[Row]]) -> None:
        self._examiner = Examiner(settings, suites)

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = self._examiner([json.loads(row) for row in batch["row"].to_pylist()])
        for one in found:
            one["own_runs"] = NOTHING if one["own_runs"] is one["runs"] else one["own_runs"]
        compared = {name: [one.pop(name).tobytes() for one in found] for name in COMPARED}
        columns = {"place": batch["place"], "found": [json.dumps(one) for one in found], **compared}
        return pa.table(columns, schema=RESULT)


def _examine(rows: Sequence[Row], num: int, settings: DatasetSettings, suites: Mapping[str, list[Row]]) -> Examined:
    mapped = ray.data.from_arrow(_blocks(rows, num * BLOCKS_PER_WORKER)).map_batches(
        RowActor,
        fn_constructor_kwargs={"settings": settings.quality, "suites": suites},
        compute=ray.data.ActorPoolStrategy(size=num),
        batch_format="pyarrow",
        batch_size=settings.batch_size,
        num_cpus=1,
        memory=settings.worker_memory_bytes,
    )
    found: dict[int, dict[str, Any]] = {}
    for batch in mapped.iter_batches(batch_format="pyarrow", batch_size=None):
        found.update((row.pop("place"), _examined(row)) for row in batch.to_pylist())
    if found.keys() != set(range(len(rows))):
        raise RowsLost(f"{len(rows)} rows were examined and {len(found)} came back: report this")
    return [found[place] for place in range(len(rows))]


def _blocks(rows: Sequence[Row], num: int) -> list[pa.Table]:
    size = -(-len(rows) // num)
    starts = range(0, len(rows), size)
    blocks = [(start, rows[start : start + size]) for start in starts]
    return [
        pa.table({"place": range(start, start + len(block)), "row": [json.dumps(row) for row in block]})
        for start, block in blocks
    ]


def _examined(row: Mapping[str, Any]) -> dict[str, Any]:
    compared = {name: np.frombuffer(row[name], kind) for name, kind in COMPARED.items() if row[name]}
    return {**json.loads(row["found"]), "own_runs": compared["runs"], **compared}
