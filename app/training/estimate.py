"""What a run will need, before it starts: memory of a worker, time, dollars.

Memory is counted as DeepSpeed and PyTorch hold it (Rajbhandari et al., ZeRO, arXiv 1910.02054; activations as in
Korthikanti et al., arXiv 2205.05198, for this loop's plain attention), for the largest pass that the run's own rows
make. Time is that of its tokens at the rate of an earlier run or probe of the same shape (:mod:`app.training.speed`),
else of its floating-point operations at ``train.workers.flops_per_s``. No torch, no cluster.

Guarantees: what a worker's memory grows by over the bare process, measured, is between 1/``FACTOR`` and ``FACTOR``
times the estimate for `sft`, `lora` and `osft` (tests/training/test_estimate.py). Not guaranteed: time at a rate that
is only stated, and of a step so small that it is mostly overhead.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.registry.versions import Registry, Version
from app.training.architecture import with_architecture
from app.training.data import Size
from app.training.extensions import number_type
from app.training.plan import Plan, make_batches
from app.training.prepare import prepare
from app.training.settings import ModelSettings, TrainSettings
from app.training.shape import ModelShape, num_trained, shape_of
from app.training.speed import known_speed

FACTOR = 1.7
PROCESS_BYTES = 690_000_000
"""A worker of Ray Train with torch, transformers and DeepSpeed, before it has a model (measured: 689 MB)."""
STEP_S = 0.01
"""What a step takes beside its operations."""
MOST_STEPS = 2000
"""Steps whose rows are looked at; of a longer run as many, evenly over it."""
SECONDS_PER_HOUR = 3600
STATED = "stated"
"""Whose rate it is where nothing was measured."""
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker at its fullest."""

    process: int
    weights: int
    gradients: int
    masters: int
    optimizer: int
    subspaces: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())

    @property
    def largest(self) -> str:
        """The part that weighs most, the process itself left out."""
        parts = {name: size for name, size in vars(self).items() if name != "process"}
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class Estimate:
    """What a run will need."""

    num_parameters: int
    """Of the model, adapters not counted."""
    memory: Memory
    num_tokens: int
    """Of all steps, padding not counted."""
    flops: float
    duration_s: float
    """Of the steps; workers start in some seconds more."""
    cost_usd: float
    rate_of: str
    """Whose rate it is: a version's, or `stated`."""
    on_gpu: bool = False
    """Whether each worker has a GPU, where its memory is then counted, and which has a price."""

    def as_json(self) -> dict[str, Any]:
        """Every figure by name."""
        parts = {f"{name}_bytes": size for name, size in vars(self.memory).items()}
        figures = {name: value for name, value in vars(self).items() if name != "memory"}
        return {"memory_bytes": self.memory.total, "memory": parts, **figures}

    def line(self) -> str:
        """The estimate in one line."""
        whose = "its settings' rate" if self.rate_of == STATED else f"the rate of {self.rate_of}"
        needs = f"{said(self.memory.total)} a worker ({self.memory.largest} {said(self._largest())})"
        return f"{self.num_tokens:,} tokens in about {self.duration_s:.0f} s, ${self.cost_usd:.4f} at {whose}; {needs}"

    def shown(self, *, as_json: bool) -> str:
        """The estimate as JSON, or in one line."""
        return json.dumps(self.as_json()) if as_json else self.line()

    def _largest(self) -> int:
        return int(vars(self.memory)[self.memory.largest])


def said(num_bytes: float) -> str:
    """Bytes as a person says them."""
    return next((f"{num_bytes / unit:.1f} {name}" for unit, name in UNITS if num_bytes >= unit), f"{num_bytes:.0f} B")


def estimate(plan: Plan, folder: Path, *, registry: Registry | None = None, on_gpu: bool | None = None) -> Estimate:
    """What the run of a whole folder will need.

    Args:
        registry: where earlier runs and probes of the same shape are looked for.
        on_gpu: whether each worker gets a GPU; by default where the settings ask for one in any case.
    """
    workers, shape = plan.settings.workers, shape_of(plan)
    on_gpu = workers.gpu == "on" if on_gpu is None else on_gpu
    dtype = number_type(plan.settings.dtype, with_gpu=on_gpu)
    settings = plan.settings.model_copy(update={"dtype": dtype})
    batches = make_batches(plan, folder)
    steps, times = _looked_at(settings.num_steps)
    sizes = [batches.sizes(step, num_workers=workers.range[0]) for step in steps]  # the fewest have the most each
    num_tokens = round(times * sum(batches.num_tokens(step) for step in steps))
    flops = times * sum(step_flops(shape, settings, each) for each in sizes)
    known = known_speed(settings, shape, registry, on_gpu=on_gpu) if registry else None
    if known:
        duration_s = num_tokens / known.facts["train"]["tokens_per_s"]
    else:
        each = workers.gpu_flops_per_s if on_gpu else workers.flops_per_s * workers.num_threads
        duration_s = flops / (each * workers.num_workers) + settings.num_steps * STEP_S
    return Estimate(
        num_parameters=shape.num_parameters,
        memory=memory(shape, settings, [size for each in sizes for size in each]),
        num_tokens=num_tokens,
        flops=flops,
        duration_s=duration_s,
        cost_usd=duration_s * workers.num_workers / SECONDS_PER_HOUR * workers.usd_per_hour(on_gpu=on_gpu),
        rate_of=_said_rate(known),
        on_gpu=on_gpu,
    )


def _said_rate(known: Version | None) -> str:
    if known is None:
        return STATED
    return known.ref if known.kind == "model" else f"probe {known.ref}"


def foreseen(
    *,
    name: str,
    data: Sequence[Version],
    registry: Registry,
    settings: TrainSettings,
    base: Version | None = None,
    model: ModelSettings | None = None,
    vocabulary: Sequence[Version] = (),
    found: Callable[[Plan, Path], Estimate] | None = None,
) -> Estimate:
    """The estimate of a run that is not started; arguments and errors are those of ``trainer.train``.

    Args:
        found: makes the estimate of a run folder; by default :func:`estimate`, which measures nothing.
    """
    registry.workspace.runs_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="estimate-", dir=registry.workspace.runs_dir) as folder:
        made = with_architecture(model) if model else None
        plan = prepare(
            Path(folder), name=name, base=base, model=made, data=data, vocabulary=vocabulary, registry=registry,
            settings=settings,
        )  # fmt: skip
        return found(plan, Path(folder)) if found else estimate(plan, Path(folder), registry=registry)


def _looked_at(num_steps: int) -> tuple[list[int], float]:
    """The steps whose rows are looked at, and how many steps each stands for."""
    most = min(num_steps, MOST_STEPS)
    return [number * num_steps // most for number in range(most)], num_steps / most


def memory(shape: ModelShape, settings: TrainSettings, sizes: Sequence[Size]) -> Memory:
    """Bytes of a worker at its fullest, over the passes that a run makes."""
    width, stage = _width(settings), settings.zero_stage
    among = settings.workers.range[0]
    trained = num_trained(shape, settings)
    whole = shape.num_parameters + (trained if settings.by_adapters else 0)
    fullest = max(sizes, key=lambda size: sum(_of_pass(shape, size, width)))
    activations, logits = _of_pass(shape, fullest, width)
    if _is_frozen(settings) or settings.memory.checkpoint_activations:
        activations //= shape.num_layers  # a block's own are there while it computes
    if settings.memory.checkpoint_activations:
        activations += fullest.num_rows * fullest.row_tokens * shape.hidden_size * width * shape.num_layers
    has_masters = stage > 0 or width < 4
    parts = {
        "gradients": _gradients(trained, width, stage, among),
        "masters": 4 * trained // (among if stage else 1) if has_masters else 0,
        "optimizer": 8 * trained // (among if stage else 1),
        "subspaces": _subspaces(shape, settings, width) if settings.by_subspaces else 0,
        "activations": activations,
        "logits": logits,
    }
    held = width * whole // (among if stage == 3 else 1)
    loaded = 4 * whole - sum(parts.values())  # it is loaded in 32 bits, before there is anything else
    return Memory(process=PROCESS_BYTES, weights=max(held, loaded), **parts)


def _is_frozen(settings: TrainSettings) -> bool:
    """Whether nothing below the head learns."""
    return settings.recipe == "head" and settings.head.base == "frozen"


def _width(settings: TrainSettings) -> int:
    return 2 if number_type(settings.dtype) == "bfloat16" else 4


def _gradients(trained: int, width: int, stage: int, among: int) -> int:
    """Stage 0 makes 32 bits of them for the step; the others keep them, a bucket to reduce, and their own part."""
    if stage == 0:
        return trained * (width + (4 if width < 4 else 0))
    own = trained * (width + 4) // among
    return own + 2 * trained * width


def _subspaces(shape: ModelShape, settings: TrainSettings, width: int) -> int:
    """The start of every matrix, the bases of both of its sides, and the decomposition of the largest."""
    keep = settings.osft.keep_high if settings.osft.adaptive else 1 - settings.osft.unfreeze_rank_ratio
    held = 0
    for matrix in shape.matrices:
        dims = (matrix.out, matrix.into)
        rank = min(dims)
        kept = round(keep * rank)
        narrow = (kept if rank < dim or kept <= dim - kept else rank - kept for dim in dims)
        held += 4 * matrix.out * matrix.into
        held += sum(
            dim * columns * (4 + (width if width < 4 else 0)) for dim, columns in zip(dims, narrow, strict=True)
        )
    largest = max(each.out * each.into for each in shape.matrices)
    return held + 8 * 4 * largest


def _of_pass(shape: ModelShape, size: Size, width: int) -> tuple[int, int]:
    """Bytes that a pass keeps for its way back: activations of all blocks, and logits of the learned positions.

    A token keeps, in every block: two norms' inputs in 32 bits and their outputs, queries, keys, values and what
    attention makes of them, four rows of the feed-forward part, and its attention to every token of its row.
    """
    if width < 4:
        token = 24 * shape.hidden_size + 8 * shape.intermediate_size + 8 * shape.num_heads * size.row_tokens
    else:
        token = 40 * shape.hidden_size + 16 * shape.intermediate_size + 8 * shape.num_heads * size.row_tokens
    logit = 2 * width + 12 if width < 4 else 12
    tokens = size.num_rows * size.row_tokens
    return tokens * token * shape.num_layers, size.num_labels * shape.vocabulary_size * logit


def step_flops(shape: ModelShape, settings: TrainSettings, sizes: Iterable[Size]) -> float:
    """Floating-point operations of a step over all workers: 2 a weight and token forward, as many for each way back."""
    adapters = num_trained(shape, settings) if settings.by_adapters else 0
    back = 0 if _is_frozen(settings) else 1 if adapters else 2
    again = 1 if settings.memory.checkpoint_activations and back else 0
    total = 0.0
    for size in sizes:
        tokens = size.num_rows * size.row_tokens
        attention = 4 * size.row_tokens * shape.hidden_size * shape.num_layers
        total += tokens * ((2 * shape.num_in_matrices + attention) * (1 + back + again) + 6 * adapters)
        total += size.num_labels * 2 * shape.hidden_size * shape.vocabulary_size * (1 + back)
    if settings.by_subspaces:
        total += 8 * settings.workers.num_workers * _projections(shape, settings)
    return total


def _projections(shape: ModelShape, settings: TrainSettings) -> float:
    share = settings.osft.unfreeze_rank_ratio
    return sum(share * min(each.out, each.into) * each.out * each.into for each in shape.matrices)
