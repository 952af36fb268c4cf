from typing import Any

import pytest

from app.monitoring.settings import MonitorSettings


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"reference_size": 60, "window_size": 50}, "at least twice window_size"),
        ({"period_s": 20.0, "lease_s": 30.0}, "lease lapses"),
        ({"reference_size": 20, "window_size": 10, "num_components": 20}, "smaller than reference_size"),
        ({"window_sise": 50}, "did you mean 'window_size'"),
        ({"false_alarm_rate": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_say_why(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MonitorSettings(**values)
