"""Rows examined and near-duplicates found on a cluster, with Ray Data over the rows and over the pairs.

Guarantees: what comes back is in the order of the rows, whatever the workers' order; every row comes back once, or
nothing is published. The driver holds the rows and eight bytes for each row and band; texts are compared on workers.
Not guaranteed: a pair that MinHash does not see; see :mod:`app.core.text`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from app.core.text import NUM_BANDS, candidate_pairs, first_resembled, shingles
from app.datasets.curate import Examined, Row, RowsLost, Work
from app.datasets.examine import Examiner, own_text, whole_text
from app.datasets.settings import DatasetSettings, QualitySettings

RESULT = pa.schema({"place": pa.int64(), "found": pa.string(), "keys": pa.binary()})


def on_cluster(settings: DatasetSettings, suites: Mapping[str, list[Row]]) -> Work:
    """The work of a version on the cluster that this process is connected to."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    return Work(
        examine=lambda rows: _examine(rows, settings, suites),
        resemble=lambda rows, examined: _resemble(rows, examined, settings),
    )


def here(settings: DatasetSettings, suites: Mapping[str, list[Row]]) -> Work:
    """The same work in this process, for few rows."""
    return Work(
        examine=Examiner(settings.quality, suites),
        resemble=lambda rows, examined: resembled_here(rows, examined, settings.quality),
    )


def keys_of(examined: Examined) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    """The band keys of the rows, shape (rows, bands)."""
    return np.frombuffer(b"".join(one["keys"] for one in examined), dtype=np.uint64).reshape(-1, NUM_BANDS)


def resembled_here(rows: Sequence[Row], examined: Examined, settings: QualitySettings) -> list[tuple[int, int]]:
    """``(later, earlier)`` rows that are near-duplicates: as a whole, and without the context of their questions."""
    sets = [[hashes(text_of(row), settings) for row in rows] for text_of in (whole_text, own_text)]
    return first_resembled(candidate_pairs(keys_of(examined)), *sets, threshold=settings.similarity)


def hashes(text: str, settings: QualitySettings) -> set[int]:
    """The hashed shingles of a text, to be compared within this process."""
    return set(map(hash, shingles(text, settings.shingle_words)))


class RowActor:
    """Examines batches of rows; one recogniser and one encoder each."""

    def __init__(self, settings: QualitySettings, suites: Mapping[str, list[Row]]) -> None:
        self._examiner = Examiner(settings, suites)

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = self._examiner([json.loads(row) for row in batch["row"].to_pylist()])
        keys = [one.pop("keys") for one in found]
        columns = {"place": batch["place"], "found": [json.dumps(one) for one in found], "keys": keys}
        return pa.table(columns, schema=RESULT)


class PairActor:
    """Compares the texts of candidate pairs; all pairs of a later text come in one batch."""

    def __init__(self, texts: Any, settings: QualitySettings) -> None:
        self._texts, self._settings = ray.get(texts), settings

    def __call__(self, batch: pa.Table) -> pa.Table:
        pairs = [tuple(pair) for row in batch["pairs"].to_pylist() for pair in json.loads(row)]
        places = sorted({place for pair in pairs for place in pair})
        sets = [[hashes(texts[place].as_py(), self._settings) for place in places] for texts in self._texts]
        small = {place: number for number, place in enumerate(places)}
        found = first_resembled(
            sorted((small[earlier], small[later]) for earlier, later in pairs),
            *sets,
            threshold=self._settings.similarity,
        )
        return pa.table(
            {"later": [places[later] for later, _ in found], "earlier": [places[first] for _, first in found]}
        )


def _examine(rows: Sequence[Row], settings: DatasetSettings, suites: Mapping[str, list[Row]]) -> Examined:
    table = pa.table({"place": range(len(rows)), "row": [json.dumps(row) for row in rows]})
    done = _mapped(table, RowActor, {"settings": settings.quality, "suites": suites}, settings).sort_by("place")
    if done["place"].to_pylist() != list(range(len(rows))):
        raise RowsLost(f"{len(rows)} rows were examined and {done.num_rows} came back: report this")
    found = zip(done["found"].to_pylist(), done["keys"].to_pylist(), strict=True)
    return [{**json.loads(one), "keys": keys} for one, keys in found]


def _resemble(rows: Sequence[Row], examined: Examined, settings: DatasetSettings) -> list[tuple[int, int]]:
    by_later: dict[int, list[tuple[int, int]]] = {}
    for earlier, later in candidate_pairs(keys_of(examined)):
        by_later.setdefault(later, []).append((earlier, later))
    if not by_later:
        return []
    texts = ray.put([pa.array([text_of(row) for row in rows], pa.large_string()) for text_of in (whole_text, own_text)])
    table = pa.table({"pairs": [json.dumps(pairs) for _, pairs in sorted(by_later.items())]})
    done = _mapped(table, PairActor, {"texts": texts, "settings": settings.quality}, settings)
    return sorted(zip(done["later"].to_pylist(), done["earlier"].to_pylist(), strict=True)) if done.num_rows else []


def _mapped(
    table: pa.Table, actor: Callable[..., Any], arguments: Mapping[str, Any], settings: DatasetSettings
) -> pa.Table:
    """A table through a pool of actors, in no order."""
    size = max(1, min(settings.num_workers, -(-table.num_rows // settings.batch_size)))
    mapped = (
        ray.data.from_arrow(table)
        .repartition(4 * size)
        .map_batches(
            actor,
            fn_constructor_kwargs=dict(arguments),
            compute=ray.data.ActorPoolStrategy(size=size),
            batch_format="pyarrow",
            batch_size=settings.batch_size,
            num_cpus=1,
            memory=settings.worker_memory_bytes,
        )
    )
    batches = [batch for batch in mapped.iter_batches(batch_format="pyarrow", batch_size=None) if batch.num_rows]
    return pa.concat_tables(batches) if batches else pa.table({})
