"""Energy that this machine took while a run stepped, where it can be read; never a guess.

Processors: Intel's and AMD's counters of whole packages below /sys/class/powercap, which root may read. GPUs: NVML,
where its Python binding is installed. Guarantees: None where a counter is missing or may not be read. Not guaranteed:
that the energy is the run's alone: a counter knows no processes, and of several machines only the first is counted.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
MICROJOULES, MILLIJOULES = 1e6, 1e3
"""In a joule."""
Counters = Mapping[str, tuple[float, float]]
"""By name: what a counter shows, in J, and where it begins anew, in J (0: never)."""


def package_counters(folder: Path = POWERCAP) -> Counters:
    """The processors' counters; those that cannot be read are left out."""
    found = {}
    for zone in sorted(folder.glob("*-rapl:*")):
        try:
            if (zone / "name").read_text().startswith("package"):
                energy, most = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
                found[zone.name] = (energy / MICROJOULES, most / MICROJOULES)
        except (OSError, ValueError):
            continue
    return found


def gpu_counters() -> Counters:
    """The counters of NVIDIA's GPUs; none without NVML."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        spent = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / MILLIJOULES for handle in handles]
    except pynvml.NVMLError:
        return {}
    return {f"gpu:{place}": (energy, 0.0) for place, energy in enumerate(spent)}


def all_counters() -> Counters:
    """Every counter that can be read."""
    return {**package_counters(), **gpu_counters()}


class Meter:
    """Reads what was taken since it was last asked."""

    def __init__(self, read: Callable[[], Counters] = all_counters) -> None:
        self._read, self._before = read, read()

    def taken_j(self) -> float | None:
        """Joules since the last call; None where no counter can be read, or one that could be read no longer can."""
        before, self._before = self._before, self._read()
        if not before or before.keys() != self._before.keys():
            return None
        return sum(_grown(before[name][0], *self._before[name]) for name in before)


def _grown(before: float, now: float, most: float) -> float:
    """What a counter grew by, which may have begun anew once."""
    return now - before if now >= before else now - before + most
