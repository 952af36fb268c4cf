"""What a worker computes on, and how much memory it took. Only workers import this (torch)."""

import platform
import resource
from pathlib import Path
from typing import Any

import torch

from app.training.extensions import on_gpu

CPUS = Path("/proc/cpuinfo")
MODEL_NAME = "model name"


def machine() -> dict[str, Any]:
    """`device`, the model of the GPU or of the processor; the most bytes that this process took so far."""
    found: dict[str, Any] = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if on_gpu():
        most = torch.cuda.max_memory_allocated()
        return {**found, "device": torch.cuda.get_device_name(), "peak_gpu_memory_bytes": most}
    return {**found, "device": processor()}


def processor(path: Path = CPUS) -> str:
    """The processor's model as Linux names it, else its architecture."""
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(MODEL_NAME))
    return next(named, platform.machine())
