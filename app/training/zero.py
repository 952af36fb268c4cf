"""Parameters that DeepSpeed divides among the workers, made whole and written back, at every ZeRO stage.

Guarantees: what comes back is the whole tensor, equal on every worker; every worker must make the same calls. Without
DeepSpeed the parameter itself is its master. Sources: DeepSpeed's tensor fragments (stages 1 and 2) and partitioned
parameters (stage 3); DeepSpeed's own ``safe_set_full_fp32_param`` fails at stage 3 on sizes that do not divide.
"""

from collections.abc import Iterator
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
    return master.view(_shape(parameter))


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


def _shape(parameter: Any) -> torch.Size:
    return torch.Size(parameter.ds_shape if hasattr(parameter, "ds_id") else parameter.shape)
