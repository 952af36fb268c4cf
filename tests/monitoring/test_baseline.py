import numpy as np
import pytest

from app.core.store import walk_files
from app.monitoring.baseline import TooFewRequests, find_baseline, load_baseline, publish_baseline
from app.monitoring.drift import COMPONENTS, STRUCTURE, is_alarm
from app.monitoring.settings import MonitorSettings
from app.monitoring.signals import usable_rows
from app.registry.versions import Registry, Version
from tests.monitoring.conftest import Rows, make_rows


@pytest.fixture
def rows() -> Rows:
    return usable_rows([{**row, "request_json": None} for row in make_rows(130, seed=1)])[0]  # type: ignore[return-value]


def test_a_baseline_names_its_release_and_carries_its_thresholds(
    rows: Rows, release: Version, registry: Registry, settings: MonitorSettings
) -> None:
    version = publish_baseline(rows, release=release, registry=registry, settings=settings)
    assert version.parents == [release.digest]
    assert version.facts["num_requests"] == 120
    assert version.facts["last_request"].endswith("/r000119")
    assert {"confidence", "small_share", COMPONENTS, STRUCTURE} <= set(version.facts["thresholds"])
    assert len(list(registry.ledger.leaves("baseline"))) == 1


def test_the_same_requests_give_the_same_baseline_and_other_settings_another(
    rows: Rows, release: Version, registry: Registry, settings: MonitorSettings
) -> None:
    first = publish_baseline(rows, release=release, registry=registry, settings=settings)
    assert publish_baseline(rows, release=release, registry=registry, settings=settings) == first
    other = settings.model_copy(update={"false_alarm_rate": 0.01})
    assert find_baseline(release, registry=registry, settings=other) is None
    assert find_baseline(release, registry=registry, settings=settings) == first
    calmer = settings.model_copy(update={"period_s": 1.0})
    assert find_baseline(release, registry=registry, settings=calmer) == first


def test_a_loaded_baseline_measures_as_the_fitted_one(
    rows: Rows, release: Version, registry: Registry, settings: MonitorSettings
) -> None:
    version = publish_baseline(rows, release=release, registry=registry, settings=settings)
    baseline = load_baseline(version, registry=registry)
    assert baseline.projection.reference.shape == (120, 32)
    np.testing.assert_allclose(baseline.projection.reference[0], rows[0]["embedding"])
    assert not is_alarm(baseline.measure(make_rows(40, seed=2)), min_signals=2)
    assert is_alarm(baseline.measure(make_rows(40, seed=2, shifted=True)), min_signals=2)


def test_too_few_requests_are_refused_and_leave_nothing(
    rows: Rows, release: Version, registry: Registry, settings: MonitorSettings
) -> None:
    with pytest.raises(TooFewRequests, match="119 of the 120"):
        publish_baseline(rows[:119], release=release, registry=registry, settings=settings)
    assert registry.versions("baseline") == []
    assert not [path for path in walk_files(registry.workspace.root) if "baseline" in path.parts]
