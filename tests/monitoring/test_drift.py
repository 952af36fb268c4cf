from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from app.monitoring import drift
from app.monitoring.settings import MonitorSettings
from app.monitoring.signals import Projection, fit_projection, signal_columns
from tests.monitoring.conftest import make_rows

SETTINGS = MonitorSettings(reference_size=120, window_size=40, num_components=4)
Fitted = tuple[Mapping[str, Any], Projection, Mapping[str, float]]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    rows = make_rows(120, seed=1)
    projection = fit_projection(rows, num_components=4, num_neighbours=3)
    columns = signal_columns(rows, projection, is_reference=True)
    return columns, projection, drift.fit_thresholds(columns, settings=SETTINGS)


def measure(fitted: Fitted, rows: list[dict[str, Any]]) -> list[drift.Figure]:
    reference, projection, thresholds = fitted
    window = signal_columns(rows, projection)
    return drift.measure_window(reference, window, thresholds=thresholds)


def test_windows_like_the_baseline_raise_no_alarm_and_shifted_ones_do(fitted: Fitted) -> None:
    same = [measure(fitted, make_rows(40, seed=seed)) for seed in range(100, 120)]
    shifted = [measure(fitted, make_rows(40, seed=seed, shifted=True)) for seed in range(100, 110)]
    assert [drift.is_alarm(figures, min_signals=2) for figures in same] == [False] * 20
    assert [drift.is_alarm(figures, min_signals=2) for figures in shifted] == [True] * 10


def test_one_signal_alone_is_no_alarm(fitted: Fitted) -> None:
    rows = [{**row, "num_question_words": 60} for row in make_rows(40, seed=5)]
    figures = measure(fitted, rows)
    assert drift.alarming_signals(figures) == ["num_question_words"]
    assert not drift.is_alarm(figures, min_signals=2)
    assert drift.is_alarm(figures, min_signals=1)


def test_the_embeddings_figures_count_as_one_signal(fitted: Fitted) -> None:
    new = make_rows(40, seed=6, shifted=True)
    rows = [{**row, "embedding": other["embedding"]} for row, other in zip(make_rows(40, seed=6), new, strict=True)]
    figures = measure(fitted, rows)
    assert sum(figure.alarm for figure in figures) >= 2
    assert drift.alarming_signals(figures) == ["embedding"]


def test_a_constant_signal_is_measured_too(fitted: Fitted) -> None:
    figures = measure(fitted, [{**row, "confidence": 0.5, "route": "small"} for row in make_rows(40, seed=8)])
    assert all(np.isfinite(figure.value) for figure in figures)


def test_a_signal_without_values_is_an_error_that_names_it(fitted: Fitted) -> None:
    with pytest.raises(drift.DriftNotMeasured, match="confidence"):
        measure(fitted, [{**row, "confidence": float("nan")} for row in make_rows(40, seed=8)])


@pytest.mark.parametrize(("rate", "low", "high"), [(0.05, 0.02, 0.05), (0.2, 0.12, 0.2)])
def test_chance_passes_the_kolmogorov_smirnov_threshold_at_its_rate(rate: float, low: float, high: float) -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    threshold = drift.ks_threshold(rate, num_reference=200, num_window=50)
    passed = [ks_2samp(rng.normal(size=200), rng.normal(size=50)).statistic > threshold for _ in range(1000)]
    assert low <= np.mean(passed) <= high * 1.15


@pytest.mark.parametrize("share", [0.02, 0.5, 0.8, 1.0])
def test_chance_seldom_passes_the_threshold_of_a_share(share: float) -> None:
    rng = np.random.default_rng(0)
    reference, window = rng.binomial(200, share, 4000), rng.binomial(50, share, 4000)
    thresholds = [drift.share_threshold(int(k), 0.01, num_reference=200, num_window=50) for k in reference]
    assert np.mean(np.abs(reference / 200 - window / 50) > thresholds) <= 0.015


def test_a_figure_survives_its_json() -> None:
    figure = drift.Figure("confidence", "confidence", "kolmogorov_smirnov", 0.5, 0.3)
    assert figure.alarm
    assert drift.Figure.from_json(figure.to_json()) == figure
