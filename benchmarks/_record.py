"""What every benchmark writes: one JSON file with the machine, the versions, the figures and the baselines."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from app.core.clock import timestamp
from app.core.files import replace_text

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "faiss-cpu", "nannyml", "mlflow", "docling-slim", "pyarrow")


def record(
    name: str,
    *,
    params: Mapping[str, Any],
    results: Mapping[str, Any],
    baselines: Mapping[str, Any],
    ratios: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures of a benchmark with everything that they depend on."""
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return {
        "name": name,
        "at": timestamp(),
        "hardware": {"cpus": psutil.cpu_count(), "memory_gib": memory_gib, "machine": platform.machine()},
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "params": dict(params),
        "results": dict(results),
        "baselines": dict(baselines),
        "ratios": dict(ratios),
    }


def write(figures: Mapping[str, Any], path: Path) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(figures, indent=2) + "\n")
