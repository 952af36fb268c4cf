"""Settings of the evaluation stage."""

from pydantic import Field, PositiveInt

from app.core.settings import Settings


class EvaluationSettings(Settings):
    """How a suite is run and judged."""

    num_workers: PositiveInt = 1
    """Actors that answer questions."""

    num_threads: PositiveInt = 1
    """Torch threads of an actor, and the CPUs that it reserves."""

    worker_memory_bytes: PositiveInt = 1_000_000_000
    """Memory that an actor reserves."""

    batch_size: PositiveInt = 64
    """Questions answered at once."""

    max_new_tokens: PositiveInt = 24
    """Longest answer of a model, in its tokens."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of the intervals."""

    num_resamples: PositiveInt = 2000
    """Resamples of the bootstrap."""

    seed: int = 0
    """Seed of the bootstrap."""
