"""What is asked of adapters, looked at before a run starts: that they have a place, and what they need is there.

Guarantees: nothing is loaded but the names in the header of the base's weights. Imports torch only for `quantize`.
"""

import importlib.util
from pathlib import Path

from app.training.errors import CannotAdapt
from app.training.settings import LoraSettings
from app.training.weights import read_header


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
