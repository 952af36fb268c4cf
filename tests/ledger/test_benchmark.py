"""The benchmark measures what it says, on a ledger small enough for a test."""

import random

from benchmarks.ledger import figures_of, grow, table


def test_a_small_run_has_every_figure(tmp_path):
    grown = grow(tmp_path / "grown", [100, 300], batch=50, rng=random.Random(0))
    races = {"sqlite_single_1_writers": {"appends_per_s": 10.0, "inserts_per_s": 30.0}}
    figures = figures_of(grown, races, {"seed": 0})
    assert set(figures) >= {"name", "at", "hardware", "versions", "params", "results", "baselines", "ratios"}
    assert figures["ratios"]["append_vs_insert_sqlite_single_1_writers"] == 3.0
    assert figures["ratios"]["append_batched_vs_insert"] == figures["ratios"]["append_batched_vs_insert_3e2"] > 0
    assert 0 < figures["results"]["proof_bytes_1e2"] < 2000
    assert figures["results"]["verify_s_3e2"] > 0
    assert "| sqlite single 1 writers | 10/s | 30/s | 3.00 |" in table(figures)
    assert figures["params"]["postgresql"] is False
