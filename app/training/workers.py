"""Settings of the processes that train: how many, where, at what price, within what budget.

Guarantees: of all these only the number of workers that is asked for goes into a model version's inputs.
"""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from app.core.settings import Settings


class WorkerSettings(Settings):
    """The processes that train."""

    num_workers: PositiveInt = 2
    """Data-parallel workers of Ray Train that the run is asked to have; a model version's inputs name this number."""

    min_workers: PositiveInt | None = None
    """Run with as few where no more find room, and go on with as few where a machine was lost; none: `num_workers`.
    The rows of every step stay the same; how many really ran is in the model's facts."""

    max_workers: PositiveInt | None = None
    """Run with as many where they find room; none: `num_workers`. Below `num_workers`, the run goes on with less."""

    num_threads: PositiveInt = 1
    """Torch threads of each worker, and the CPUs that it reserves."""

    gpu: Literal["auto", "on", "off"] = "auto"
    """Compute on a GPU each: `auto` where the cluster has one for every worker, else on CPUs; `on` refuses to start
    without."""

    worker_memory_bytes: PositiveInt = 2_000_000_000
    """Memory that each worker reserves; a run that is estimated to need more is refused before it starts."""

    gpu_memory_bytes: PositiveInt = 80_000_000_000
    """Memory of a GPU, which counts in its place where each worker has one."""

    max_failures: NonNegativeInt = 3
    """Times that a run is taken up again from its last checkpoint after a worker died."""

    num_kept_checkpoints: PositiveInt = 2
    """Latest checkpoints that are kept while a run lasts."""

    start_timeout_s: PositiveInt = 120
    """Longest wait of the workers for each other."""

    usd_per_cpu_hour: NonNegativeFloat = 0.05
    """Price of one CPU for an hour, for the cost of a run."""

    usd_per_gpu_hour: NonNegativeFloat = 3.0
    """Price of one GPU for an hour, beside its CPUs."""

    flops_per_s: PositiveFloat = 4e10
    """Floating-point operations of a worker's thread in a second, for the estimate of a run whose shape none had
    before; afterwards the earlier run's own rate counts."""

    gpu_flops_per_s: PositiveFloat = 1e14
    """The same of a GPU."""

    probe: Literal["auto", "always", "never"] = "auto"
    """Measure a few steps on the workers where no run of this shape was measured: `auto` where a limit is near, and for
    `--estimate`; a probe takes seconds beside the start of its workers."""

    budget_policy: str = "training"
    """Policy that judges the estimate before the run starts: a file, or one that comes with Signalbox."""

    max_usd: NonNegativeFloat | None = None
    """A run that is estimated to cost more is refused before it starts; none refuses none."""

    max_minutes: PositiveFloat | None = None
    """A run that is estimated to step for longer is refused before it starts; none refuses none."""

    @property
    def range(self) -> tuple[int, int]:
        """The fewest and the most workers that may run."""
        most = self.max_workers or self.num_workers
        return min(self.min_workers or self.num_workers, most), most

    def usd_per_hour(self, *, on_gpu: bool) -> float:
        """Price of a worker: its CPUs, and its GPU where it has one."""
        return self.num_threads * self.usd_per_cpu_hour + on_gpu * self.usd_per_gpu_hour
