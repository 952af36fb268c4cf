"""Whether a run may start: its estimate against the limits of its settings, then by a policy, the verdict on record.

Guarantees: a run that is over a limit is not started, and the sentence names figure, limit and the setting to change; a
run that starts has a plan and a green or amber verdict in the ledger. Where no run of its shape was measured and a
limit is within ``PROBE_FACTOR`` of the estimate, a probe measures it first. No torch, no Ray: whoever asks gives the
probe. Not guaranteed: that a run costs what was estimated.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from app.governance.checks.cost import MEMORY, MINUTES, USD, Budget, TrainingBudget
from app.governance.checks.spending import BY_HAND
from app.governance.policy import Policy, load_policy
from app.governance.stoplights import ask, publish_plan
from app.registry.versions import Registry, Version
from app.training.data import Size
from app.training.errors import OutOfMemory, OverBudget, TrainingFailed
from app.training.estimate import STATED, Estimate, Memory, estimate, memory, said
from app.training.plan import Plan
from app.training.settings import TrainSettings
from app.training.shape import shape_of
from app.training.workers import WorkerSettings

TRAINING = "training"
"""The gate."""
PROBE_FACTOR = 10.0
"""A stated rate may be so far off; a limit that is farther away than that needs no probe."""
SECONDS_PER_MINUTE = 60
Probe = Callable[[Plan, Path], object]
"""Measures a few steps of a run and publishes how fast they were."""


def allowed(
    plan: Plan, folder: Path, *, registry: Registry, parents: Sequence[Version], on_gpu: bool, probe: Probe
) -> tuple[Estimate, Version]:
    """The estimate of a run that may start, shown in one line, and the verdict that lets it.

    Args:
        parents: what the run goes on from and learns.

    Raises:
        OverBudget: it needs more than its settings allow.
        StopLight: it needs more than the policy allows; exit status 3.
    """
    policy = load_policy(plan.settings.workers.budget_policy)
    found = measured(plan, folder, registry=registry, on_gpu=on_gpu, probe=probe, policy=policy)
    print(f"train {plan.name} ({plan.settings.recipe}): {found.line()}", file=sys.stderr)
    check_budget(found, plan)
    return found, ask_to_spend(plan.name, found, plan.settings, registry=registry, parents=parents)


def measured(
    plan: Plan, folder: Path, *, registry: Registry, on_gpu: bool, probe: Probe, policy: Policy | None
) -> Estimate:
    """The estimate, at a measured rate where one is known or ``train.workers.probe`` has one measured now.

    Args:
        policy: whose limits count beside those of the settings; None: a probe is wanted whatever the limits.
    """
    workers = plan.settings.workers
    found = estimate(plan, folder, registry=registry, on_gpu=on_gpu)
    wanted = workers.probe == "always" or policy is None or is_near(found, workers, policy)
    fits = found.memory.total <= _memory_limit(found, workers)[1]
    if found.rate_of != STATED or workers.probe == "never" or not wanted or not fits:
        return found
    probe(plan, folder)
    return estimate(plan, folder, registry=registry, on_gpu=on_gpu)


def is_near(found: Estimate, workers: WorkerSettings, policy: Policy) -> bool:
    """Whether the estimate, off by ``PROBE_FACTOR``, might be over a limit of money or time."""
    checks = [check for check in policy.checks if isinstance(check, Budget | TrainingBudget)]
    usd = [workers.max_usd, *(check.maximum_usd for check in checks)]
    minutes = [workers.max_minutes, *(check.maximum_minutes for check in checks if isinstance(check, TrainingBudget))]
    needed = found.duration_s / SECONDS_PER_MINUTE
    return _over(found.cost_usd * PROBE_FACTOR, usd) or _over(needed * PROBE_FACTOR, minutes)


def _over(figure: float, limits: Iterable[float | None]) -> bool:
    return any(limit is not None and figure > limit for limit in limits)


def ask_to_spend(
    name: str, found: Estimate, settings: TrainSettings, *, registry: Registry, parents: Sequence[Version]
) -> Version:
    """The verdict of ``train.workers.budget_policy`` on a step that trains; StopLight where it is red."""
    plan = publish_plan(
        f"{TRAINING}-{name}",
        cause=BY_HAND,
        parents=parents,
        cost_usd=found.cost_usd,
        spent_usd=0.0,
        registry=registry,
        facts={"recipe": settings.recipe, "estimate": found.as_json(), "to_need_less": to_need_less(found, settings)},
    )
    return ask(TRAINING, plan, registry=registry, policy=settings.workers.budget_policy)


def together(found: Sequence[Estimate], *, at_once: int, max_usd: float | None, max_minutes: float | None) -> Estimate:
    """The estimate of several runs, so many at once, that are ended when they cost or last so much."""
    durations = [sum(each.duration_s for each in found) / at_once]
    durations += [max_minutes * SECONDS_PER_MINUTE] if max_minutes is not None else []
    costs = [sum(each.cost_usd for each in found), *([max_usd] if max_usd is not None else [])]
    return replace(
        max(found, key=lambda each: each.memory.total),
        num_tokens=sum(each.num_tokens for each in found),
        flops=sum(each.flops for each in found),
        duration_s=min(durations),
        cost_usd=min(costs),
    )


def to_need_less(found: Estimate, settings: TrainSettings) -> dict[str, str]:
    """Which settings to change for less money, time and memory."""
    return {
        USD: "take fewer train.num_steps, a smaller model, recipe lora",
        MINUTES: "take fewer train.num_steps, more train.workers.num_workers, a smaller model",
        MEMORY: _lighter(found.memory, settings),
    }


def check_budget(found: Estimate, plan: Plan) -> None:
    """Refuse a run that is estimated to need more than its settings allow.

    Raises:
        OverBudget: with the setting to change.
    """
    settings, what = plan.settings, f"training {plan.name} ({plan.settings.recipe}) was not started: it needs about"
    workers, less = settings.workers, to_need_less(found, plan.settings)
    name, limit = _memory_limit(found, workers)
    if found.memory.total > limit:
        needs = f"{said(found.memory.total)} a worker of {said(limit)} reserved"
        raise OverBudget(f"{what} {needs}, most of it for {found.memory.largest}: {less[MEMORY]}, or raise {name}")
    minutes = found.duration_s / SECONDS_PER_MINUTE
    if workers.max_minutes is not None and minutes > workers.max_minutes:
        allowed_now = f"of {workers.max_minutes:g} allowed: {less[MINUTES]}"
        raise OverBudget(f"{what} {minutes:.1f} minutes {allowed_now}, or raise train.workers.max_minutes")
    if workers.max_usd is not None and found.cost_usd > workers.max_usd:
        allowed_now = f"of ${workers.max_usd:g} allowed: {less[USD]}"
        raise OverBudget(f"{what} ${found.cost_usd:.4f} {allowed_now}, or raise train.workers.max_usd")


def _memory_limit(found: Estimate, workers: WorkerSettings) -> tuple[str, int]:
    if found.on_gpu:
        return "train.workers.gpu_memory_bytes", workers.gpu_memory_bytes
    return "train.workers.worker_memory_bytes", workers.worker_memory_bytes


def advice(found: Memory, settings: TrainSettings) -> str:
    """Which setting to change where memory does not suffice."""
    return f"{_lighter(found, settings)}, or raise train.workers.worker_memory_bytes"


def _lighter(found: Memory, settings: TrainSettings) -> str:
    if found.largest in ("activations", "logits"):
        now = settings.max_tokens_per_worker or "none"
        kept = "" if settings.memory.checkpoint_activations else "set train.memory.checkpoint_activations, "
        kept = kept if found.largest == "activations" else ""
        return f"{kept}lower train.max_tokens_per_worker (now {now})"
    if not settings.by_adapters and found.largest in ("gradients", "masters", "optimizer", "subspaces"):
        lora = "use recipe lora, "
    else:
        lora = ""
    more = "more train.workers.num_workers"
    stage = f"train.zero_stage {settings.zero_stage + 1} with {more}" if settings.zero_stage < 3 else more
    return f"{lora}take {stage}"


SIGNS = ("OutOfMemory", "MemoryError", "can't allocate memory", "out of memory")
"""How Ray, Python, and torch on CPU and GPU say that memory did not suffice."""


def failure(error: Exception, plan: Plan) -> TrainingFailed:
    """What to raise for a run that its workers ended."""
    said_by_it = str(error)
    if any(sign in said_by_it for sign in SIGNS):
        sizes = memory(shape_of(plan), plan.settings, [Size(1, plan.settings.max_row_tokens, 1)])
        what = f"a worker of training {plan.name} had no memory left"
        return OutOfMemory(f"{what}: {advice(sizes, plan.settings)}: {said_by_it}")
    return TrainingFailed(f"training {plan.name} failed, call it again to go on: {said_by_it}")
