"""The baseline of a release: signals of the first requests that it answered, and the thresholds they give.

Guarantees: a baseline is a published version whose parent is its release; the same requests and settings give the same
one. Thresholds are among its facts, so that an alarm can be checked from the evidence alone. Windows hold requests of
the same release only, and a release has one index: no vector is compared with another encoder's. Not guaranteed:
that those requests were typical; publish another from other rows when they were not.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from app.core.digests import digest_json
from app.core.errors import UsageError
from app.core.parquet import read_rows, write_rows
from app.monitoring import drift
from app.monitoring.settings import MonitorSettings
from app.monitoring.signals import EMBEDDING, SMALL_SHARE, Projection, Row, fit_projection, row_key, signal_columns
from app.registry.versions import Registry, Version

KIND = "baseline"
CODE_VERSION = "baseline-1"
SIGNALS, PROJECTION = "signals.parquet", "projection.parquet"
MEASURING = {
    "window_size",
    "reference_size",
    "num_components",
    "num_neighbours",
    "false_alarm_rate",
    "min_distance",
}
"""Settings that decide a baseline's content."""


class TooFewRequests(UsageError):
    """The request log holds too few usable requests for a baseline: send more, or lower monitoring.reference_size."""


@dataclass(frozen=True)
class Baseline:
    """A baseline, loaded. ``end`` is the position of its last request: windows begin after it."""

    version: Version
    release: str
    columns: Mapping[str, Sequence[Any]]
    projection: Projection
    thresholds: Mapping[str, float]
    end: str

    def measure(self, rows: Sequence[Row]) -> list[drift.Figure]:
        """Every figure of a whole window of usable rows."""
        window = signal_columns(rows, self.projection)
        return drift.measure_window(self.columns, window, thresholds=self.thresholds)


def publish_baseline(
    rows: Sequence[Row], *, release: Version, registry: Registry, settings: MonitorSettings
) -> Version:
    """Publish the baseline that the first ``reference_size`` usable rows make.

    Raises:
        TooFewRequests: there are not so many.
    """
    if len(rows) < settings.reference_size:
        message = f"{len(rows)} of the {settings.reference_size} requests that a baseline needs: send more"
        raise TooFewRequests(message)
    chosen = list(rows[: settings.reference_size])
    inputs = _inputs(release, settings) | {"requests": digest_json([row["request_id"] for row in chosen])}
    if found := registry.find(KIND, release.name, inputs):
        return found
    projection = fit_projection(chosen, num_components=settings.num_components, num_neighbours=settings.num_neighbours)
    columns = signal_columns(chosen, projection, is_reference=True)
    facts = _facts(chosen, columns) | {"thresholds": drift.fit_thresholds(columns, settings=settings)}
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), chosen, columns, projection)
        return registry.publish(
            KIND, release.name, folder=Path(folder), inputs=inputs, parents=[release.digest], facts=facts
        )


def find_baseline(release: Version, *, registry: Registry, settings: MonitorSettings) -> Version | None:
    """The newest baseline of a release under these settings."""
    wanted = _inputs(release, settings)
    for version in reversed(registry.versions(KIND, release.name)):
        if wanted.items() <= dict(version.manifest["inputs"]).items():
            return version
    return None


def load_baseline(version: Version, *, registry: Registry) -> Baseline:
    """Read a published baseline."""
    folder = registry.folder(version)
    signals = read_rows(folder / SIGNALS)
    columns = {name: [row[name] for row in signals] for name in signals[0]}
    mean, *components = [row["vector"] for row in read_rows(folder / PROJECTION)]
    projection = Projection(
        mean=np.asarray(mean),
        components=np.asarray(components),
        reference=np.asarray(columns[EMBEDDING]),
        num_neighbours=version.manifest["inputs"]["settings"]["num_neighbours"],
    )
    facts = version.facts
    release = version.manifest["inputs"]["release"]
    return Baseline(version, release, columns, projection, facts["thresholds"], facts["last_request"])


def _inputs(release: Version, settings: MonitorSettings) -> dict[str, Any]:
    return {
        "release": release.digest,
        "settings": settings.model_dump(mode="json", include=MEASURING),
        "code_version": f"{CODE_VERSION} {drift.CODE_VERSION}",
    }


def _facts(rows: Sequence[Row], columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    means = {name: float(np.mean(values)) for name, values in columns.items() if name != EMBEDDING}
    return {
        "num_requests": len(rows),
        "first_request": row_key(rows[0]),
        "last_request": row_key(rows[-1]),
        "small_share": means[SMALL_SHARE],
        "means": means,
    }


def _write(folder: Path, rows: Sequence[Row], columns: Mapping[str, Sequence[Any]], projection: Projection) -> None:
    types = {EMBEDDING: pa.list_(pa.float64()), SMALL_SHARE: pa.int8()}
    schema = pa.schema(
        [("request_id", pa.string()), *((name, types.get(name, pa.float64())) for name in columns)],
    )
    whole = {"request_id": [row["request_id"] for row in rows], **columns}
    signals = [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]
    write_rows(folder / SIGNALS, signals, schema=schema)
    vectors = [{"name": "mean", "vector": projection.mean.tolist()}]
    vectors += [
        {"name": name, "vector": component.tolist()}
        for name, component in zip(projection.component_names, projection.components, strict=True)
    ]
    write_rows(
        folder / PROJECTION, vectors, schema=pa.schema([("name", pa.string()), ("vector", pa.list_(pa.float64()))])
    )
