"""Adapters: their settings, and whether they have a place and what they need, before a run starts.

Guarantees: nothing is loaded but the names in the header of the base's weights. Imports torch only for `quantize`.
"""

import importlib.util
from pathlib import Path
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from app.core.settings import Settings
from app.training.errors import CannotAdapt
from app.training.weights import read_header


class LoraSettings(Settings):
    """Low-rank adapters on linear layers (Hu et al., 2021)."""

    rank: PositiveInt = 32
    """Rank of an adapter."""

    alpha: PositiveInt = 64
    """Scale of an adapter, divided by its rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's input that is dropped."""

    merge: bool = False
    """Add what the adapters learned to the base's weights at the end, so that a whole model is published."""

    target_modules: tuple[str, ...] | None = None
    """Layers that get adapters, by the ends of their names, as in `q_proj`; by default every linear layer."""

    use_dora: bool = False
    """Learn each weight's magnitude apart from its direction (DoRA; Liu et al., 2024, arXiv 2402.09353)."""

    use_rslora: bool = False
    """Divide `alpha` by the square root of the rank, so that high ranks learn too (Kalajdzievski, 2023, arXiv
    2312.03732)."""

    quantize: bool = False
    """Hold the base in 4 bits while the adapters learn (QLoRA; Dettmers et al., 2023, arXiv 2305.14314): needs a GPU
    and bitsandbytes."""

    @model_validator(mode="after")
    def _is_not_merged_into_four_bits(self) -> Self:
        if self.merge and self.quantize:
            raise ValueError("lora.merge must be left out with lora.quantize: the base is there in 4 bits alone")
        return self


def check_adapters(settings: LoraSettings, base: Path) -> None:
    """Refuse adapters that cannot be made on the base in a folder.

    Raises:
        CannotAdapt: a target names no layer of the base, or the base cannot be held in 4 bits here.
    """
    layers = layers_of(base)
    for target in settings.target_modules or ():
        if not any(layer == target or layer.endswith(f".{target}") for layer in layers):
            known = ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))
            raise CannotAdapt(f"train.lora.target_modules: the base has no layer {target!r}: name some of {known}")
    if settings.quantize:
        check_quantize()


def check_quantize() -> None:
    """Refuse 4-bit weights where nothing can compute with them; CannotAdapt."""
    advice = "leave train.lora.quantize out, or train where there are both"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CannotAdapt(f"train.lora.quantize needs bitsandbytes, which is not installed, and a GPU: {advice}")
    import torch

    if not torch.cuda.is_available():
        raise CannotAdapt(f"train.lora.quantize needs a GPU beside bitsandbytes, and there is none: {advice}")


def layers_of(folder: Path) -> list[str]:
    """Names of the layers inside the blocks of a model folder that have a weight of their own."""
    names = {name for path in folder.glob("*.safetensors") for name in read_header(path)}
    weights = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return sorted(name for name in weights if any(part.isdigit() for part in name.split(".")) and "norm" not in name)
