"""What each worker does: build the model, take up the run where it stood, step, save, report.

Guarantees: a run that is cut off and taken up again makes the same steps on the same rows as one that is not; every
worker reports as often as the others (Ray Train's report is a barrier), also when a checkpoint is asked for in between.
Knows no Ray: it is given its rank, a folder to restore from and a function to report with. Only workers import this
(torch, DeepSpeed).
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.training.data import Batch, Batches
from app.training.dpo import REFERENCE_FILE, PreferenceLoss, look_at_held_out, reference_of
from app.training.energy import Meter
from app.training.extensions import number_type, on_gpu, quieten, without_autotuning
from app.training.foreign import check_held, check_packs, end_with, heads_plainly, keep_config
from app.training.heads.model import HeadLoss
from app.training.heldout import heldout_figures
from app.training.machine import machine
from app.training.model import AnswerLoss, merged, save_model
from app.training.osft import Osft, adaptive_ratios, chosen_weights
from app.training.plan import EXPORT, SUMMARY_FILE, Plan, append_progress, make_batches, read_plan
from app.training.requests import END, NOTHING, agreed
from app.training.savings import offloading, save_memory
from app.training.settings import TrainSettings
from app.training.start import make_model
from app.training.state import load_state, save_state
from app.training.zero import size_of, whole_state

PROGRESS_FILE = "progress.json"
SUBSPACE_FILE = "subspace.json"
"""The invariants of `osft`, beside a checkpoint."""
CURVE_POINTS = 100
IMPORTANCE_BATCHES = 8
PROGRESS_EVERY_S = 2.0

Report = Callable[[Mapping[str, Any], Path], None]
"""Takes figures and a folder, which is the reporter's from then on."""


@dataclass
class Progress:
    """How far a run is; goes into every checkpoint."""

    step: int = 0
    num_tokens: int = 0
    duration_s: float = 0.0
    worker_s: float = 0.0
    """As `duration_s`, of all workers together."""
    energy_j: float | None = None
    """Of the first worker's machine in those steps, where it can be read throughout."""
    dtype: str | None = None
    """The type of numbers that the run began with; none in checkpoints from before it was kept."""
    curve: list[dict[str, float]] = field(default_factory=list)


def run_worker(folder: Path, *, rank: int, num_workers: int, restore_from: Path | None, report: Report) -> None:
    """Train from the plan in ``folder`` to its last step, reporting a checkpoint folder now and then."""
    plan = with_number_type(read_plan(folder), restore_from)
    quieten()
    torch.set_num_threads(plan.settings.workers.num_threads)
    batches = make_batches(plan, folder)
    engine, subspaces = make_engine(plan, batches, num_workers=num_workers)
    started_s = time.perf_counter()
    if plan.settings.recipe == "dpo":
        who = {"rank": rank, "num_workers": num_workers}
        batches.reference = reference_of(engine, batches.examples, folder / REFERENCE_FILE, **who)
        look_at_held_out(engine, folder, **who)
    looked_s = time.perf_counter() - started_s
    progress = restore(engine, restore_from)
    progress.dtype = plan.settings.dtype
    progress.duration_s += looked_s
    progress.worker_s += looked_s * num_workers
    watch = Watch(folder, plan.settings, progress, num_workers=num_workers) if rank == 0 else None
    due, saved = checkpoint_steps(plan.settings), progress.step
    keep = partial(
        save, engine, subspaces, plan, progress, run_folder=folder, rank=rank, num_workers=num_workers, report=report
    )
    while progress.step < plan.settings.num_steps:
        wanted = agreed(folder, rank=rank, num_workers=num_workers, device=engine.device)
        if wanted != NOTHING and saved < progress.step:
            keep()
            saved = progress.step
        if wanted == END:
            return
        loss = train_step(engine, subspaces, batches, plan.settings, progress, rank=rank, num_workers=num_workers)
        figures = {"loss": loss, **engine.module.take_notes()}
        if watch:
            watch.after_step(figures)
        if progress.step in due:
            keep()
            saved = progress.step


def with_number_type(plan: Plan, restore_from: Path | None) -> Plan:
    """The plan with the type of numbers that the run began with, or, where it begins, with what `auto` is here: a run
    that goes on elsewhere does not change it on the way."""
    kept = json.loads((restore_from / PROGRESS_FILE).read_text()).get("dtype") if restore_from else None
    settings = plan.settings.model_copy(update={"dtype": kept or number_type(plan.settings.dtype)})
    return plan.model_copy(update={"settings": settings})


def make_engine(plan: Plan, batches: Batches, *, num_workers: int) -> tuple[Any, Osft | None]:
    """The model in a DeepSpeed engine with AdamW, and its subspaces in `osft`; matrices decay, vectors do not."""
    with without_autotuning():
        import deepspeed

    quieten()
    settings = plan.settings
    bare = make_model(plan).train()  # what transformers loads is at rest
    if not settings.memory.offload_parameters:
        bare = bare.to(device())
    save_memory(bare, settings.memory, zero_stage=settings.zero_stage, has_gpu=on_gpu())
    model = _with_loss(bare, settings)
    subspaces = _make_subspaces(model, settings, batches, num_workers)
    how: dict[str, Any] = {"lr": settings.learning_rate, "betas": (0.9, 0.95), "fused": True}
    optimizer = torch.optim.AdamW(_groups(model, settings), **how)
    with redirect_stdout(StringIO()):  # DeepSpeed prints that its extension is built
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(settings, num_workers=num_workers, on_gpu=on_gpu()),
            dist_init_required=False,
        )
    return engine, subspaces


def _groups(model: AnswerLoss, settings: TrainSettings) -> list[dict[str, Any]]:
    """What learns, by how: matrices decay, vectors do not; a new head has a rate of its own."""
    fresh = {id(each) for each in model.head_parameters()}
    times = (settings.head.learning_rate or settings.learning_rate) / settings.learning_rate
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for p in trained if (p.ndim >= 2) == decays and (id(p) in fresh) == is_fresh],
            "weight_decay": settings.weight_decay if decays else 0.0,
            "times": times if is_fresh else 1.0,
        }
        for is_fresh in (False, True)
        for decays in (True, False)
    ]
    return [group for group in groups if group["params"]]


def _with_loss(model: Any, settings: TrainSettings) -> AnswerLoss:
    if settings.recipe == "head":
        return HeadLoss(model, settings.head.task)
    loss = PreferenceLoss(model, settings.dpo) if settings.recipe == "dpo" else AnswerLoss(model)
    loss.plain_head = heads_plainly(model)
    if settings.pack_tokens:
        check_packs(model)
    return loss


def _make_subspaces(model: AnswerLoss, settings: TrainSettings, batches: Batches, num_workers: int) -> Osft | None:
    if not settings.by_subspaces:
        return None
    chosen = chosen_weights(model)
    check_held(model, set(chosen))
    how, ratios = settings.osft, _ratios(model, settings, batches, num_workers)
    for parameter in model.parameters():
        parameter.requires_grad = how.train_others
    for parameter in [*chosen.values(), *model.head_parameters()]:
        parameter.requires_grad = True
    return Osft(chosen, ratios)


def _ratios(
    model: AnswerLoss, settings: TrainSettings, batches: Batches, num_workers: int
) -> Mapping[str, float] | float:
    """Shares of the directions that learn; every worker looks at the first one's rows, so that all choose the same."""
    how = settings.osft
    if not how.adaptive:
        return how.unfreeze_rank_ratio
    steps = range(IMPORTANCE_BATCHES)
    looked = (part for step in steps for part in batches.passes(step, rank=0, num_workers=num_workers))
    return adaptive_ratios(model, (tensors(part, device()) for part in looked), low=how.keep_low, high=how.keep_high)


def device() -> torch.device:
    """Where this worker computes: its own GPU of the machine's, or the CPU."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu() else torch.device("cpu")


def deepspeed_config(settings: TrainSettings, *, num_workers: int, on_gpu: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration of a recipe; what is offloaded, only from a GPU."""
    offloaded = offloading(settings.memory, has_gpu=on_gpu)
    return {
        "train_micro_batch_size_per_gpu": settings.batch_size // num_workers,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": number_type(settings.dtype) == "bfloat16"},
        "zero_optimization": {"stage": settings.zero_stage, "overlap_comm": False, **offloaded},
        **({"zero_force_ds_cpu_optimizer": False} if offloaded else {}),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rises over the warm-up, holds, then falls along a cosine; ``step`` counts from 0."""
    warm = min(1.0, (step + 1) / max(settings.num_warmup_steps, 1))
    done = step / settings.num_steps
    if done <= settings.hold_share:
        return settings.learning_rate * warm
    fall = (done - settings.hold_share) / (1 - settings.hold_share)
    low = settings.final_share
    return settings.learning_rate * warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * fall)))


def train_step(
    engine: Any,
    subspaces: Osft | None,
    batches: Batches,
    settings: TrainSettings,
    progress: Progress,
    *,
    rank: int,
    num_workers: int,
) -> float:
    """One optimiser step; returns the mean loss of this worker's rows."""
    started_s = time.perf_counter()
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate(progress.step, settings) * group["times"]
    torch.manual_seed(hash((settings.seed, progress.step, rank)))  # what drops out does not depend on a resumption
    parts, loss = batches.passes(progress.step, rank=rank, num_workers=num_workers), 0.0
    for number, part in enumerate(parts, start=1):
        engine.set_gradient_accumulation_boundary(number == len(parts))
        part_loss = engine(**tensors(part, engine.device))
        engine.backward(part_loss)
        loss += float(part_loss.item())
    engine.step()
    if subspaces:
        subspaces.after_step()
    progress.num_tokens += batches.num_tokens(progress.step)
    progress.step += 1
    taken_s = time.perf_counter() - started_s
    progress.duration_s += taken_s
    progress.worker_s += taken_s * num_workers
    return loss


def tensors(batch: Batch, place: torch.device | str = "cpu") -> dict[str, Any]:
    """A batch as arguments of :class:`AnswerLoss`, its arrays on a device; what it does not have is left out."""
    given = [(name, each) for name, each in batch._asdict().items() if each is not None]
    return {name: torch.from_numpy(each).to(place) if isinstance(each, np.ndarray) else each for name, each in given}


def checkpoint_steps(settings: TrainSettings) -> set[int]:
    """After which steps a checkpoint is saved; the last step always is one."""
    return {
        math.ceil(settings.num_steps * part / settings.num_checkpoints)
        for part in range(1, settings.num_checkpoints + 1)
    }


def save(
    engine: Any,
    subspaces: Osft | None,
    plan: Plan,
    progress: Progress,
    *,
    run_folder: Path,
    rank: int,
    num_workers: int,
    report: Report,
) -> None:
    """Write this worker's part of a checkpoint and report it; the last one carries the trained model too.

    Raises:
        SubspaceBroken: weights left the subspace that `osft` keeps them in; no checkpoint is made.
    """
    found = subspaces.check() if subspaces else {}
    found |= heldout_figures(engine, run_folder, plan)
    folder = Path(tempfile.mkdtemp(prefix="signalbox-checkpoint-"))
    save_state(engine, folder, rank=rank, num_workers=num_workers)
    is_last = progress.step == plan.settings.num_steps
    state = whole_state(engine) if is_last else None
    if rank == 0:
        (folder / PROGRESS_FILE).write_text(json.dumps(vars(progress)))
    if rank == 0 and subspaces:
        (folder / SUBSPACE_FILE).write_text(json.dumps({"step": progress.step, **found}))
    if rank == 0 and is_last:
        (folder / SUMMARY_FILE).write_text(json.dumps(summary(engine, progress, plan.settings) | found))
        export(engine, plan, folder / EXPORT, state=state)
    figures = {"step": progress.step, "duration_s": progress.duration_s, "num_tokens": progress.num_tokens}
    report({**figures, **found}, folder)


def export(engine: Any, plan: Plan, folder: Path, *, state: Any) -> None:
    """Write the trained model, or its adapters, as the base's own library reads it."""
    model = _published(engine.module.model, plan.settings)
    if plan.end_tokens:
        end_with(model, plan.end_tokens)
    save_model(model, folder, dtype=number_type(plan.settings.dtype), base_digest=plan.base_digest, state=state)
    if plan.end_tokens and plan.base_folder:
        keep_config(plan.base_folder, folder)


def _published(model: Any, settings: TrainSettings) -> Any:
    return merged(model) if settings.merges else model


def summary(engine: Any, progress: Progress, settings: TrainSettings) -> dict[str, Any]:
    """The run's figures, for the driver."""
    parameters = list(engine.module.parameters())
    return {
        **vars(progress),
        "dtype": number_type(settings.dtype),
        **machine(),
        "num_parameters": sum(map(size_of, parameters)),
        "num_trained_parameters": sum(size_of(p) for p in parameters if p.requires_grad),
    }


def restore(engine: Any, folder: Path | None) -> Progress:
    """Take up the run at a checkpoint, or begin."""
    if folder is None:
        return Progress()
    load_state(engine, folder)
    return Progress(**json.loads((folder / PROGRESS_FILE).read_text()))


class Watch:
    """The first worker's notes: the loss curve, and a line of progress every few seconds."""

    def __init__(self, folder: Path, settings: TrainSettings, progress: Progress, *, num_workers: int) -> None:
        self._folder, self._settings, self._progress = folder, settings, progress
        self._figures: list[Mapping[str, float]] = []
        self._noted_s = time.monotonic()
        self._mark = (progress.num_tokens, progress.duration_s)
        self._every = max(1, settings.num_steps // CURVE_POINTS)
        self._meter = Meter()
        start = {"event": "start", "step": progress.step, "pid": os.getpid(), "num_workers": num_workers}
        append_progress(folder, {**start, "is_slow": settings.dtype == "bfloat16" != number_type("auto")})

    def after_step(self, figures: Mapping[str, float]) -> None:
        """Take down a step's `loss`, and what goes with it."""
        self._figures.append(figures)
        step = self._progress.step
        self._add_energy(self._meter.taken_j())
        if step % self._every == 0 or step == self._settings.num_steps:
            self._progress.curve.append(self._point())
        if time.monotonic() - self._noted_s > PROGRESS_EVERY_S or step == self._settings.num_steps:
            self._noted_s = time.monotonic()
            latest = self._progress.curve[-1] if self._progress.curve else {}
            line = {"event": "step", **latest, "step": step, "worker_s": self._progress.worker_s}
            append_progress(self._folder, line)

    def _add_energy(self, taken_j: float | None) -> None:
        """None once it could not be read: a part is not the whole."""
        before_j = 0.0 if self._progress.step == 1 else self._progress.energy_j
        self._progress.energy_j = None if taken_j is None or before_j is None else before_j + taken_j

    def _point(self) -> dict[str, float]:
        tokens, duration_s = self._mark
        self._mark = (self._progress.num_tokens, self._progress.duration_s)
        point = {
            "step": self._progress.step,
            **{name: sum(each[name] for each in self._figures) / len(self._figures) for name in self._figures[0]},
            "learning_rate": learning_rate(self._progress.step - 1, self._settings),
            "tokens_per_s": (self._mark[0] - tokens) / max(self._mark[1] - duration_s, 1e-9),
        }
        self._figures.clear()
        return point
