"""What :class:`app.training.memory.MemorySettings` does to a model and to DeepSpeed. Only workers import this.

Guarantees: a kernel or a compiler that was asked for and is not there ends the run with its name. Not guaranteed, as
there was no GPU to try them on: offloading and Liger's kernels.
"""

import importlib.util
from typing import Any

from app.training.errors import CannotTrain
from app.training.memory import MemorySettings

KERNELS = "liger_kernel"
PLAIN_LOSS = {"cross_entropy": False, "fused_linear_cross_entropy": False}
"""The loss is our own: logits are made for the learned positions alone."""


def save_memory(model: Any, how: MemorySettings, *, zero_stage: int, has_gpu: bool) -> None:
    """Change a model, with or without adapters, before DeepSpeed takes it.

    Raises:
        CannotTrain: it is not there, or the model cannot do it.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    if fused(inner, how, has_gpu=has_gpu):
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(inner, PLAIN_LOSS)
    if how.checkpoint_activations:
        if not inner.supports_gradient_checkpointing:
            raise CannotTrain(f"{type(inner).__name__} cannot: leave train.memory.checkpoint_activations out")
        # at stage 3 a weight is whole in the forward pass and a part after it: its shape is no sign of a difference
        checked = {} if zero_stage < 3 else {"determinism_check": "none"}
        inner.activation_checkpointing_enable({"use_reentrant": False, **checked})
    if how.compile:
        inner.base_model.compile(dynamic=True)


def fused(model: Any, how: MemorySettings, *, has_gpu: bool) -> bool:
    """Whether Liger's kernels take part; CannotTrain where they were asked for and cannot."""
    if how.liger == "off":
        return False
    lacking = _lacking(model, has_gpu=has_gpu)
    if lacking and how.liger == "on":
        raise CannotTrain(f"train.memory.liger is on, but {lacking}: set it to auto, or train where there is one")
    return not lacking


def _lacking(model: Any, *, has_gpu: bool) -> str:
    if importlib.util.find_spec(KERNELS) is None:
        return "liger-kernel is not installed"
    if not has_gpu:
        return "there is no GPU"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = model.config.model_type
    return "" if kind in MODEL_TYPE_TO_APPLY_LIGER_FN else f"liger-kernel does not know {kind}"


def offloading(how: MemorySettings, *, has_gpu: bool) -> dict[str, Any]:
    """DeepSpeed's words for what lies in main memory, within `zero_optimization`; nothing where all of it does."""
    if not has_gpu:
        return {}
    asked = {"offload_optimizer": how.offload_optimizer, "offload_param": how.offload_parameters}
    return {name: {"device": "cpu", "pin_memory": True} for name, wanted in asked.items() if wanted}
