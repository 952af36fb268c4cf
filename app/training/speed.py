"""How fast runs of one shape are: what an earlier run reached, else what a probe of a few steps measured.

Guarantees: a rate counts only for the same recipe, number of parameters, workers, threads and kind of device; a whole
run's counts before a probe's. Not guaranteed: that another machine of the same kind is as fast. No torch, no Ray.
"""

import json
from pathlib import Path
from typing import Any

from app.registry.versions import Registry, Version
from app.training.plan import Plan
from app.training.settings import TrainSettings
from app.training.shape import ModelShape, shape_of

KIND = "speed"
SPEED_FILE = "speed.json"
"""What the workers of a probe leave in its folder."""
SAME = ("recipe", "zero_stage", "batch_size", "pack_tokens", "max_tokens_per_worker", "num_workers", "head")
"""Settings that two runs of one shape have in common, beside the type of numbers that they computed in."""


def known_speed(settings: TrainSettings, shape: ModelShape, registry: Registry, *, on_gpu: bool) -> Version | None:
    """The newest model that a run of this shape made, else its newest probe; ``train.tokens_per_s`` among its facts.

    Args:
        settings: with the type of numbers that the workers will compute in, not `auto`.
    """
    wanted, threads = settings.inputs(), settings.workers.num_threads

    def fits(version: Version) -> bool:
        given, figures = version.stated("inputs", "settings") or {}, version.facts.get("train", {})
        same = all(given.get(name) == wanted.get(name) for name in SAME)
        same &= version.facts.get("dtype", given.get("dtype")) == settings.dtype
        alike = figures.get("num_threads") == threads and figures.get("tokens_per_s")
        there = ("peak_gpu_memory_bytes" in figures) == on_gpu
        counted = version.facts.get("estimate", {}).get("num_parameters")
        return bool(same and alike and there and counted == shape.num_parameters)

    found = (each for kind in ("model", KIND) for each in reversed(registry.versions(kind)) if fits(each))
    return next(found, None)


def publish_speed(plan: Plan, folder: Path, *, registry: Registry) -> Version:
    """What a probe measured, as a version of kind ``speed``: a leaf, and the rate of the next estimate."""
    figures: dict[str, Any] = json.loads((folder / SPEED_FILE).read_text())
    shape, workers = shape_of(plan), plan.settings.workers
    inputs = {
        "base": plan.base_digest,
        "settings": plan.settings.inputs(),
        "num_parameters": shape.num_parameters,
        "num_threads": workers.num_threads,
        "device": figures["device"],
    }
    facts = {
        "dtype": figures.pop("dtype"),
        "train": {**figures, "num_threads": workers.num_threads},
        "estimate": {"num_parameters": shape.num_parameters},
    }
    parents = [plan.base_digest] if plan.base_digest else []
    return registry.publish(KIND, plan.name, inputs=inputs, parents=parents, facts=facts)
