"""The deep rungs on a base: more blocks that change nothing yet, and another pattern of attention.

Source: Wu et al., LLaMA Pro: Progressive LLaMA with Block Expansion (arXiv 2401.02415): copies of blocks stand behind
groups of blocks, with the projections that write to the residual stream set to zero, so that a copy hands on what it
was given. Only the copies learn, unless asked otherwise: what the base can do stays in its own blocks.

Guarantees: the expanded model's logits are the base's, looked at each time; what is exported is an ordinary model of
the same architecture, with more blocks in its configuration. Only workers import this (torch), but for the checks.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.training.adapters import layers_of
from app.training.errors import CannotExpand
from app.training.settings import AttentionSettings, ExpandSettings, TrainSettings

OUTPUTS = frozenset(
    ("o_proj", "out_proj", "c_proj", "dense", "wo", "down_proj", "fc2", "w2", "fc_out", "dense_4h_to_h")
)
"""What the projections are called that write to the residual stream, in the architectures of transformers."""
SLIDING, FULL = "sliding_attention", "full_attention"
LOOKED_AT = 12


def check_expansion(settings: TrainSettings, base: Path | None) -> None:
    """Refuse what cannot be done to the base in a folder, before a run starts.

    Raises:
        CannotExpand: there is no base, its blocks are of an unknown make, or it knows no such attention.
    """
    changed = [name for name in ("expand", "attention", "new_tokens") if getattr(settings, name)]
    if not changed:
        return
    if base is None:
        raise CannotExpand(f"train.{changed[0]} changes a base: name one, or leave it out")
    if settings.expand and OUTPUTS.isdisjoint(name.rpartition(".")[2] for name in layers_of(base)):
        raise CannotExpand("the base's blocks have no projection of a known name: leave train.expand out")
    if settings.attention:
        attending(base, settings.attention)


def attending(base: Path, settings: AttentionSettings) -> Any:
    """The configuration of the base in a folder, with a sliding window.

    Raises:
        CannotExpand: its architecture has none, or not for some blocks alone.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, local_files_only=True)
    kind = config.model_type
    if not hasattr(config, "sliding_window"):
        raise CannotExpand(f"{kind} has no sliding window: leave train.attention out, or choose a base that has one")
    layered = getattr(config, "layer_types", None) is not None
    if settings.full_every and not layered:
        raise CannotExpand(f"{kind} has one window for all blocks: leave train.attention.full_every out")
    config.sliding_window = settings.sliding_window
    if hasattr(config, "use_sliding_window"):
        config.use_sliding_window = True
    if layered:
        config.layer_types = pattern(config.num_hidden_layers, settings.full_every)
    return config


def pattern(num_blocks: int, full_every: int) -> list[str]:
    """The kind of attention of each block, from the first."""
    return [FULL if full_every and number % full_every == 0 else SLIDING for number in range(1, num_blocks + 1)]


def order_of(num_blocks: int, settings: ExpandSettings) -> list[tuple[int, bool]]:
    """Of the expanded model's blocks in order: which block of the base each is or copies, and whether it is a copy."""
    num_new = settings.num_blocks
    if settings.place == "top":
        copies = [(num_blocks - 1 - (num_new - 1 - n) % num_blocks, True) for n in range(num_new)]
        return [*((number, False) for number in range(num_blocks)), *copies]
    ends = [-(-group * num_blocks // num_new) for group in range(1, num_new + 1)]
    found = []
    for number in range(num_blocks):
        found += [(number, False), *((number, True) for end in ends if end == number + 1)]
    return found


def expand(model: Any, settings: ExpandSettings) -> Any:
    """The model with copies of blocks among its own that change nothing; those alone have gradients, if so set.

    Raises:
        CannotExpand: the copies do change something.
    """
    before = _looks(model)
    name, blocks = _stack(model)
    order = order_of(len(blocks), settings)
    made = [copy.deepcopy(blocks[source]) if is_new else blocks[source] for source, is_new in order]
    model.requires_grad_(not settings.train_only_new)
    for number, (block, (_, is_new)) in enumerate(zip(made, order, strict=True)):
        _number(block, number)
        if is_new:
            _silence(block)
            block.requires_grad_(True)
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, type(blocks)(made))
    _state(model.config, [source for source, _ in order])
    if not before.equal(_looks(model)):
        raise CannotExpand(f"copied blocks of {model.config.model_type} change what it says: leave train.expand out")
    return model


def _stack(model: Any) -> tuple[str, Any]:
    """The model's list of blocks, and its name."""
    from torch import nn

    num = model.config.num_hidden_layers
    decoder = model.get_decoder()
    lists = {each: name for name, each in model.named_modules() if isinstance(each, nn.ModuleList) and len(each) == num}
    found = next((each for each in decoder.children() if each in lists), None)
    if found is None:
        raise CannotExpand(f"{model.config.model_type} keeps its blocks in no list: leave train.expand out")
    return lists[found], found


def _number(block: Any, number: int) -> None:
    """Blocks know their place, by which they find what they remember of earlier tokens."""
    for module in block.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx = number


def _silence(block: Any) -> None:
    for name, parameter in block.named_parameters():
        if not OUTPUTS.isdisjoint(name.split(".")):
            parameter.data.zero_()


def _state(config: Any, sources: Sequence[int]) -> None:
    """Put the blocks into the configuration: their number, and whatever it lists for each of them."""
    num = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == num and name in _PER_BLOCK:
            setattr(config, name, [value[source] for source in sources])
    config.num_hidden_layers = len(sources)


_PER_BLOCK = ("layer_types", "no_rope_layers", "mlp_layer_types", "layers_block_type")


def _looks(model: Any) -> Any:
    """Logits of a few tokens."""
    import torch

    tokens = torch.arange(1, 1 + LOOKED_AT)[None] % model.config.vocab_size
    training = model.training
    with torch.no_grad():
        logits = model.eval()(input_ids=tokens, use_cache=False).logits
    model.train(training)
    return logits
