"""What the loop asks of a base model from elsewhere before it trains it. Only workers import this (torch).

Guarantees: a model whose logits are not simply its last hidden states through its output layer (they are capped, or
scaled) is found, and its own forward pass is used; packing is refused where the model attends across packed rows, or
carries a state from one to the next. How: a few tokens are taken through the model, so that nothing has to be known
about its architecture. Not guaranteed: terms that a model adds to its loss by itself (a mixture's balance) are learned.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.core.files import read_text
from app.training.errors import CannotTrain

NUM_TOKENS = 4
TOLERANCE = 1e-3
"""Of logits, as a share of their largest size."""
CONFIG_FILE = "config.json"
VOLATILE = ("dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache")
"""What transformers writes anew into a configuration; none of it shapes the network."""


def heads_plainly(model: Any) -> bool:
    """Whether the logits are the decoder's last hidden states through the output layer, and nothing else."""
    model = model.get_base_model() if hasattr(model, "peft_config") else model
    head = model.get_output_embeddings()
    if head is None:
        raise CannotTrain(f"{type(model).__name__} has no output layer: name a causal language model as the base")
    with _at_rest(model):
        ids = _some(model)
        wanted = model(input_ids=ids, use_cache=False).logits.float()
        made = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return made.shape[-1] == head.weight.shape[-1] and _alike(head(made).float(), wanted)


def check_packs(model: Any) -> None:
    """Refuse to pack rows for a model that does not keep them apart.

    Raises:
        CannotTrain: it sees one row from the other.
    """
    model = model.get_base_model() if hasattr(model, "peft_config") else model
    with _at_rest(model):
        first = _some(model)
        second = first.flip(1) + 1
        positions = torch.arange(NUM_TOKENS, device=first.device)[None]
        packed = {"input_ids": torch.cat([first, second], 1), "position_ids": torch.cat([positions] * 2, 1)}
        try:
            both = model(**packed, use_cache=False)
        except TypeError as error:
            raise CannotTrain(f"{type(model).__name__} takes no positions: set no train.pack_tokens") from error
        alone = model(input_ids=second, position_ids=positions, use_cache=False)
    if not _alike(both.logits[:, NUM_TOKENS:].float(), alone.logits.float()):
        raise CannotTrain(f"{type(model).__name__} does not keep packed rows apart: set no train.pack_tokens")


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """The model without dropout and gradients for the block; every module is as it was after it."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training


def check_held(model: nn.Module, chosen: set[str]) -> None:
    """Refuse `osft` where matrices inside the blocks are none that it can hold, such as experts stacked in one.

    Raises:
        CannotTrain: there is one, or nothing to hold at all.
    """
    if not chosen:
        raise CannotTrain(f"{type(model).__name__} has no linear layers in numbered blocks: train it by sft")
    inside = ((name, each) for name, each in model.named_parameters() if any(p.isdigit() for p in name.split(".")))
    left = next((name for name, each in inside if each.ndim >= 2 and name not in chosen), None)
    if left:
        raise CannotTrain(f"osft cannot hold {left}, which is no linear layer: train this base by sft or lora")


def end_with(model: Any, end_tokens: Sequence[int]) -> None:
    """Let the model's generation settings end at these ids, and be such as can be saved."""
    settings = model.generation_config
    settings.eos_token_id = list(end_tokens) if len(end_tokens) > 1 else end_tokens[0]
    try:
        settings.validate(strict=True)
    except ValueError:
        settings.do_sample = True  # what a base names beside it (temperature, top_p) is of no use otherwise


def keep_config(base: Path, export: Path) -> None:
    """Put the base's own configuration, byte for byte, in the place of one that says the same; adapters have none."""
    if (export / CONFIG_FILE).exists() and _stated(base / CONFIG_FILE) == _stated(export / CONFIG_FILE):
        (export / CONFIG_FILE).write_bytes((base / CONFIG_FILE).read_bytes())


def _stated(path: Path) -> Any:
    """What a configuration says with its defaults, less what is volatile."""
    from transformers import AutoConfig

    return _lasting(AutoConfig.for_model(**json.loads(read_text(path))).to_dict())


def _lasting(stated: Any) -> Any:
    if not isinstance(stated, dict):
        return stated
    return {name: _lasting(value) for name, value in stated.items() if name not in VOLATILE}


def _some(model: Any) -> torch.Tensor:
    table: torch.Tensor = model.get_input_embeddings().weight
    return torch.arange(NUM_TOKENS, device=table.device)[None] % (table.shape[0] - 1)


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max().clamp_min(1e-6))
