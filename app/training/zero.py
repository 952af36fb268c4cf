"""Parameters that DeepSpeed divides among the workers, made whole and written back, at every ZeRO stage; and the
pieces of them that a worker holds.

Guarantees: what comes back is the whole tensor, equal on every worker; every worker must make the same calls. Without
DeepSpeed the parameter itself is its master. Sources: DeepSpeed's tensor fragments (stages 1 and 2) and partitioned
parameters (stage 3); DeepSpeed's own ``safe_set_full_fp32_param`` fails at stage 3 on sizes that do not divide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

PREFIX = "model."
"""The model's name in the module that DeepSpeed wraps."""


def full_master(parameter: Any) -> Tensor:
    """The fp32 master of a parameter (out, in), gathered from all workers; without DeepSpeed the parameter itself."""
    if not _divided(parameter):
        return cast("Tensor", parameter.data.float())
    from deepspeed.utils import safe_get_full_fp32_param

    master: Tensor = safe_get_full_fp32_param(parameter)
    return master.view(shape_of(parameter))


def full_weight(parameter: Any) -> Tensor:
    """The weight as the forward pass sees it (out, in)."""
    if not hasattr(parameter, "ds_id"):
        return cast("Tensor", parameter.data)
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([parameter]):
        return cast("Tensor", parameter.data.clone())


def put_master(parameter: Any, value: Tensor) -> None:
    """Write this worker's part of a master, and the weight that follows from the whole."""
    for fragment, whole in _fragments(parameter):
        fragment.data.copy_(value.flatten()[whole])
    put_weight(parameter, value)


def put_weight(parameter: Any, value: Tensor) -> None:
    """Write the weight (out, in) that the forward pass sees; at stage 3 every worker calls it."""
    if not hasattr(parameter, "ds_id"):
        parameter.data.copy_(value)
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([parameter], modifier_rank=0):
        parameter.data.copy_(value)


def _fragments(parameter: Any) -> Iterator[tuple[Tensor, slice]]:
    """What this worker holds of a parameter's master, and where in the flat master that is."""
    if hasattr(parameter, "ds_id"):
        import torch.distributed as dist
        from deepspeed.utils import safe_get_local_fp32_param

        part = safe_get_local_fp32_param(parameter).flatten()
        first = part.numel() * dist.get_rank()
        last = min(first + part.numel(), parameter.ds_numel)
        if first < last:
            yield part[: last - first], slice(first, last)
    elif getattr(parameter, "_hp_mapping", None) is not None:
        mapping = parameter._hp_mapping
        at = mapping.lp_fragment_address
        yield mapping.hp_fragment.flatten(), slice(at.start, at.start + at.numel)


def size_of(parameter: Any) -> int:
    """Elements of a parameter, however it is divided."""
    return int(parameter.ds_numel if hasattr(parameter, "ds_id") else parameter.numel())


def whole_state(engine: Any) -> dict[str, Tensor] | None:
    """The wrapped model's weights by name, gathered, where ZeRO-3 divides them; every worker calls it."""
    if engine.zero_optimization_stage() < 3:
        return None
    state = engine._zero3_consolidated_16bit_state_dict()
    return {name.removeprefix(PREFIX): value for name, value in (state or {}).items()}


def _divided(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def shape_of(parameter: Any) -> torch.Size:
    """Dimensions of a parameter, however it is divided."""
    return torch.Size(parameter.ds_shape if hasattr(parameter, "ds_id") else parameter.shape)


MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """What this worker holds of a parameter: master and moments as flat views, and where they begin in the whole."""

    name: str
    start: int
    tensors: dict[str, Tensor]
    is_whole: bool
    """Whether every worker holds the same, all of it."""


def base_optimizer(engine: Any) -> Any:
    """The AdamW inside DeepSpeed's own optimiser."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def trained_parameters(engine: Any) -> list[tuple[str, Any]]:
    """What learns, by name."""
    return [(name, each) for name, each in engine.module.named_parameters() if each.requires_grad]


def pieces(engine: Any) -> Iterator[Piece]:
    """What this worker holds of every parameter that learns; moments are zeros before the first step."""
    _make_moments(engine)
    masters = _own_masters(engine)
    for name, parameter in trained_parameters(engine):
        if masters is not None:
            master = masters[id(parameter)]
            state = base_optimizer(engine).state[master]
            yield Piece(name, 0, {"master": master.data, **{kind: state[kind] for kind in MOMENTS}}, is_whole=True)
        elif hasattr(parameter, "ds_id"):
            yield from _part_of_divided(name, parameter)
        elif parameter._hp_mapping is not None:
            yield _part_of_flat(name, parameter._hp_mapping, engine)


def _part_of_flat(name: str, held: Any, engine: Any) -> Piece:
    """Not by DeepSpeed's own links to the moments: those of the second group of parameters are never made."""
    state = base_optimizer(engine).state[engine.optimizer.single_partition_of_fp32_groups[held.param_group_index]]
    at = held.get_hp_fragment_address()
    moments = {kind: state[kind].narrow(0, at.start, at.numel) for kind in MOMENTS}
    master = held.hp_fragment.data
    return Piece(name, held.lp_fragment_address.start, {"master": master, **moments}, is_whole=False)


def _part_of_divided(name: str, parameter: Any) -> Iterator[Piece]:
    import torch.distributed as dist
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    part = safe_get_local_fp32_param(parameter).flatten()
    first = part.numel() * dist.get_rank()
    num = min(part.numel(), parameter.ds_numel - first)
    if num > 0:
        moments = {kind: safe_get_local_optimizer_state(parameter, kind).flatten()[:num] for kind in MOMENTS}
        yield Piece(name, first, {"master": part[:num].data, **moments}, is_whole=False)


def _own_masters(engine: Any) -> dict[int, Tensor] | None:
    """At stage 0 each parameter's master, by the parameter's id: a tensor of its own, or in 32 bits itself."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage():
        return None
    if not hasattr(optimizer, "fp32_groups"):
        return {id(each): each for group in optimizer.param_groups for each in group["params"]}
    groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {id(low): high for lows, highs in groups for low, high in zip(lows, highs, strict=True)}


def _make_moments(engine: Any) -> None:
    """AdamW makes its state in its first step; a run that is taken up needs it before."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        flat = list((_own_masters(engine) or {}).values())
    elif stage < 3:
        flat = optimizer.single_partition_of_fp32_groups
    else:
        flat = optimizer.fp32_partitioned_groups_flat
    for master in flat:
        state = base_optimizer(engine).state[master]
        if not state:
            state |= {kind: torch.zeros_like(master.data) for kind in MOMENTS} | {"step": torch.tensor(0.0)}
