from typing import Any

import numpy as np
import pytest

from app.monitoring.signals import NOVELTY, SMALL_SHARE, fit_projection, row_key, signal_columns, usable_rows
from tests.monitoring.conftest import make_rows


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"confidence": None}, "no confidence"),
        ({"embedding": None}, "no embedding"),
        ({"request_json": '{"model": "small"}'}, "asked for a model by name"),
    ],
)
def test_a_row_that_carries_no_signal_is_counted_with_its_reason(change: dict[str, Any], reason: str) -> None:
    rows = [{**row, "request_json": '{"model": "signalbox"}'} for row in make_rows(3)]
    kept, left_out = usable_rows([rows[0], rows[1] | change, rows[2]])
    assert [row["request_id"] for row in kept] == ["r000000", "r000002"]
    assert left_out == {reason: 1}


def test_positions_sort_by_time_then_by_id() -> None:
    early, late = make_rows(2)
    tied = {**early, "request_id": "r9"}
    assert sorted([late, tied, early], key=row_key) == [early, tied, late]


def test_novelty_of_the_baseline_compares_with_that_of_later_questions() -> None:
    rows, later, new = make_rows(200, seed=1), make_rows(200, seed=2), make_rows(200, seed=3, shifted=True)
    projection = fit_projection(rows, num_components=4, num_neighbours=3)
    own = np.mean(signal_columns(rows, projection, is_reference=True)[NOVELTY])
    naive = np.mean(signal_columns(rows, projection)[NOVELTY])
    assert np.mean(signal_columns(later, projection)[NOVELTY]) == pytest.approx(own, rel=0.1)
    assert naive < 0.75 * own  # each question its own neighbour: not comparable
    assert np.mean(signal_columns(new, projection)[NOVELTY]) > 1.5 * own


def test_columns_have_one_value_a_request() -> None:
    rows = make_rows(60)
    columns = signal_columns(rows, fit_projection(rows, num_components=4, num_neighbours=3))
    assert {len(values) for values in columns.values()} == {60}
    assert set(columns[SMALL_SHARE]) == {0, 1}
    assert [name for name in columns if name.startswith("embedding_")][-1] == "embedding_4"
