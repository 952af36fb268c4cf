"""Energy is read where it can be, and left out otherwise."""

import pytest

from app.training.energy import Meter, package_counters


def zone(folder, zone_name, **files):
    place = folder / zone_name
    place.mkdir()
    for file, value in files.items():
        (place / file).write_text(f"{value}\n")


def test_packages_are_read_and_what_is_inside_them_is_not_counted_twice(tmp_path):
    zone(tmp_path, "intel-rapl:0", name="package-0", energy_uj=5_000_000, max_energy_range_uj=9_000_000)
    zone(tmp_path, "intel-rapl:0:0", name="core", energy_uj=4_000_000, max_energy_range_uj=9_000_000)
    zone(tmp_path, "intel-rapl:1", name="psys", energy_uj=7_000_000, max_energy_range_uj=9_000_000)
    zone(tmp_path, "intel-rapl:2", name="package-1", max_energy_range_uj=9_000_000)  # none may read its counter
    assert package_counters(tmp_path) == {"intel-rapl:0": (5.0, 9.0)}
    assert package_counters(tmp_path / "missing") == {}


@pytest.mark.parametrize(
    ("readings", "taken"),
    [
        ([{"a": (5.0, 9.0)}, {"a": (6.5, 9.0)}], 1.5),
        ([{"a": (8.0, 9.0)}, {"a": (1.0, 9.0)}], 2.0),
        ([{"a": (1.0, 9.0), "b": (0.0, 0.0)}, {"a": (2.0, 9.0), "b": (3.0, 0.0)}], 4.0),
        ([{}, {}], None),
        ([{"a": (1.0, 9.0)}, {}], None),
    ],
)
def test_what_was_taken_between_two_readings(readings, taken):
    given = iter(readings)
    assert Meter(lambda: next(given)).taken_j() == taken
