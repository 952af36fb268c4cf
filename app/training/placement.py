"""Where the workers compute: on a GPU each, with NCCL between them, or on CPUs with gloo. No Ray, no torch.

Guarantees: it follows from the settings and the number of GPUs alone; a run that asks for GPUs and has too few is
refused before it starts.
"""

from dataclasses import dataclass
from typing import Any, Literal

from app.training.errors import CannotTrain
from app.training.workers import WorkerSettings


@dataclass(frozen=True)
class Placement:
    """What each worker gets."""

    on_gpu: bool
    backend: Literal["nccl", "gloo"]
    """What torch's process group talks by."""
    resources: dict[str, float]
    """What Ray reserves for a worker."""

    def scaling(self, workers: WorkerSettings) -> dict[str, Any]:
        """Arguments of Ray Train's ``ScalingConfig``."""
        least, most = workers.range
        num_workers = (least, most) if least < most else most
        return {"num_workers": num_workers, "use_gpu": self.on_gpu, "resources_per_worker": self.resources}


def placed(workers: WorkerSettings, *, num_gpus: float) -> Placement:
    """The placement on a cluster with so many GPUs.

    Raises:
        CannotTrain: they are too few.
    """
    needed = workers.range[0]
    if workers.gpu == "on" and num_gpus < needed:
        raise CannotTrain(
            f"train.workers.gpu is on, but the cluster has {num_gpus:g} GPUs for {needed} workers: take fewer, or auto"
        )
    on_gpu = workers.gpu != "off" and num_gpus >= needed
    resources: dict[str, float] = {"CPU": workers.num_threads, "memory": workers.worker_memory_bytes}
    return Placement(on_gpu, "nccl" if on_gpu else "gloo", resources | ({"GPU": 1} if on_gpu else {}))
