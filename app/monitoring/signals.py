"""From rows of the request log to signals: one row a request, one column a signal. Pure.

Guarantees: every row of the log becomes a row of signals or is counted as unusable with its reason. Embedding signals
are relative to a projection that is fitted on the baseline: principal components, and a question's novelty, which is
one minus its mean cosine with the nearest baseline questions. Baseline questions leave themselves out of their own
neighbours, so that their novelty compares with that of later questions.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.clock import rfc3339

Floats = npt.NDArray[np.float64]
Row = Mapping[str, Any]

SCALARS = ("num_question_words", "retrieval_score", "confidence")
SMALL_SHARE = "small_share"
EMBEDDING = "embedding"
NOVELTY = "embedding_novelty"
COMPONENT = "embedding_{}"
SMALL_ROUTE = "small"
ROUTED_MODEL = "signalbox"
NEEDED = ("request_id", "time", "route", "embedding", *SCALARS)


@dataclass(frozen=True)
class Projection:
    """What embedding signals are measured against.

    Shapes: ``mean`` (dim,), ``components`` (num_components, dim), ``reference`` (num_requests, dim), unit rows.
    """

    mean: Floats
    components: Floats
    reference: Floats
    num_neighbours: int

    @property
    def component_names(self) -> list[str]:
        """Column names of the principal components."""
        return [COMPONENT.format(number + 1) for number in range(len(self.components))]


def row_key(row: Row) -> str:
    """Position of a request in the log; sorts by time, then by id."""
    return f"{rfc3339(row['time'])}/{row['request_id']}"


def usable_rows(rows: Iterable[Row]) -> tuple[list[Row], dict[str, int]]:
    """Routed requests that carry every signal, by position, and how many were left out for which reason."""
    kept: list[Row] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        reason = _unusable(row)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(row)
    return sorted(kept, key=row_key), dict(left_out)


def fit_projection(rows: Sequence[Row], *, num_components: int, num_neighbours: int) -> Projection:
    """Principal components (scikit-learn's PCA) and neighbours of the baseline's embeddings."""
    from sklearn.decomposition import PCA

    reference = _embeddings(rows)
    pca = PCA(num_components, svd_solver="full").fit(reference)
    return Projection(pca.mean_, pca.components_, reference, num_neighbours)


def signal_columns(rows: Sequence[Row], projection: Projection, *, is_reference: bool = False) -> dict[str, list[Any]]:
    """Signals of usable rows, by column; ``is_reference`` when the rows are those that the projection was fitted on."""
    embeddings = _embeddings(rows)
    columns: dict[str, list[Any]] = {name: [float(row[name]) for row in rows] for name in SCALARS}
    columns[SMALL_SHARE] = [int(row["route"] == SMALL_ROUTE) for row in rows]
    columns[EMBEDDING] = embeddings.tolist()
    columns[NOVELTY] = _novelty(embeddings, projection, is_reference=is_reference).tolist()
    projected = (embeddings - projection.mean) @ projection.components.T
    return columns | dict(zip(projection.component_names, projected.T.tolist(), strict=True))


def _unusable(row: Row) -> str | None:
    missing = next((name for name in NEEDED if row.get(name) is None), None)
    if missing:
        return f"no {missing}"
    asked = json.loads(row.get("request_json") or "{}").get("model", ROUTED_MODEL)
    return None if asked == ROUTED_MODEL else "asked for a model by name"


def _embeddings(rows: Sequence[Row]) -> Floats:
    return np.asarray([row["embedding"] for row in rows], dtype=np.float64)


def _novelty(embeddings: Floats, projection: Projection, *, is_reference: bool) -> Floats:
    cosines = embeddings @ projection.reference.T
    if is_reference:
        np.fill_diagonal(cosines, -1.0)
    nearest = np.sort(cosines, axis=1)[:, -projection.num_neighbours :]
    novelty: Floats = 1.0 - nearest.mean(axis=1)
    return novelty
