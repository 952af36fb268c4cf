"""The sizes of a model without its weights: from a folder's config and safetensors headers, or a new one's settings.

No torch, but for a new model of another architecture: a driver asks before it starts anything. Guarantees: the number
of weights is that of the files. Not guaranteed: what PEFT makes of layers that stand outside the numbered blocks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from app.training.plan import Plan
from app.training.settings import ModelSettings, TrainSettings
from app.training.weights import read_header

CONFIG_FILE = "config.json"
WEIGHTS = "*.safetensors"
ALIASES = {
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_hidden_layers": ("n_layer", "num_layers", "n_layers"),
    "num_attention_heads": ("n_head", "num_heads", "n_heads"),
    "intermediate_size": ("n_inner", "d_ff", "hidden_dim"),
}
"""What older configurations call a size."""


class Matrix(NamedTuple):
    """The weight (out, in) of a linear layer."""

    name: str
    out: int
    into: int


@dataclass(frozen=True)
class ModelShape:
    """What memory and time of a training depend on."""

    num_parameters: int
    matrices: tuple[Matrix, ...]
    """Of the linear layers inside the blocks, by name."""
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocabulary_size: int

    @property
    def num_in_matrices(self) -> int:
        """Parameters of the linear layers inside the blocks."""
        return sum(each.out * each.into for each in self.matrices)


def shape_of(plan: Plan) -> ModelShape:
    """The shape of the model that a run trains, before adapters."""
    if plan.base_folder and plan.settings.recipe == "head":
        return with_head(read_shape(plan.base_folder), num_outputs=len(plan.labels or (0, 1)))
    if plan.base_folder:
        return as_changed(read_shape(plan.base_folder), plan, num_tables=_num_tables(plan.base_folder))
    assert plan.model is not None
    if plan.model.config is not None:
        return built_shape(plan.model.config, vocabulary_size=plan.vocabulary_size)
    return new_shape(plan.model, vocabulary_size=plan.vocabulary_size)


def with_head(shape: ModelShape, *, num_outputs: int) -> ModelShape:
    """The base's shape with a head in the place of its output layer."""
    more = (shape.hidden_size + 1) * num_outputs
    return replace(shape, num_parameters=shape.num_parameters + more, vocabulary_size=num_outputs)


def as_changed(shape: ModelShape, plan: Plan, *, num_tables: int) -> ModelShape:
    """The base's shape with the blocks and the tokens that a run adds to it.

    Args:
        num_tables: matrices with a row for each token, 1 where input and output share theirs.
    """
    num, num_new = shape.num_layers, plan.settings.expand.num_blocks if plan.settings.expand else 0
    num_rows = max(0, max(plan.new_tokens, default=-1) + 1 - shape.vocabulary_size)
    last = [each for each in shape.matrices if f".{num - 1}." in each.name]
    copies = [
        each._replace(name=each.name.replace(f".{num - 1}.", f".{number}."))
        for number in range(num, num + num_new)
        for each in last
    ]
    return replace(
        shape,
        num_parameters=shape.num_parameters
        + num_tables * num_rows * shape.hidden_size
        + _in_blocks(copies, num_new, shape),
        matrices=tuple(sorted([*shape.matrices, *copies])),
        num_layers=num + num_new,
        vocabulary_size=shape.vocabulary_size + num_rows,
    )


def _num_tables(folder: Path) -> int:
    size = json.loads((folder / CONFIG_FILE).read_text())["vocab_size"]
    tables = (dims for name, dims in _tensors(folder).items() if len(dims) == 2 and not _inside(name))
    return sum(dims[0] == size for dims in tables) or 1


def _in_blocks(matrices: Sequence[Matrix], num_blocks: int, shape: ModelShape) -> int:
    """Parameters of blocks with these matrices and two norms each."""
    return sum(each.out * each.into for each in matrices) + 2 * num_blocks * shape.hidden_size


def read_shape(folder: Path) -> ModelShape:
    """The shape of a model folder's model."""
    tensors = _tensors(folder)
    config = json.loads((folder / CONFIG_FILE).read_text())
    return _shape(tensors, config) if tensors else built_shape(config, vocabulary_size=config["vocab_size"])


def built_shape(config: Mapping[str, Any], *, vocabulary_size: int) -> ModelShape:
    """The shape of a new model of any architecture, put together without its weights."""
    import torch

    from app.training.architecture import build

    with torch.device("meta"):
        model = build(config, vocabulary_size=vocabulary_size, attention="eager")
    tensors = {name: list(each.shape) for name, each in model.named_parameters()}
    return _shape(tensors, model.config.to_dict())


def _shape(tensors: Mapping[str, list[int]], config: Mapping[str, Any]) -> ModelShape:
    inside = {name.removesuffix(".weight"): dims for name, dims in tensors.items() if len(dims) == 2 and _inside(name)}
    sizes = {name: _size(config, name) for name in ALIASES}
    sizes["intermediate_size"] = sizes["intermediate_size"] or 4 * sizes["hidden_size"]
    return ModelShape(
        num_parameters=sum(_product(dims) for dims in tensors.values()),
        matrices=tuple(sorted(Matrix(name, *dims) for name, dims in inside.items())),
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        vocabulary_size=int(config["vocab_size"]),
    )


def new_shape(model: ModelSettings, *, vocabulary_size: int) -> ModelShape:
    """The shape of a new Llama with tied embeddings."""
    hidden, inner = model.hidden_size, model.intermediate_size
    block = [Matrix(f"self_attn.{name}_proj", hidden, hidden) for name in "qkvo"]
    block += [Matrix(f"mlp.{name}_proj", inner, hidden) for name in ("gate", "up")]
    block.append(Matrix("mlp.down_proj", hidden, inner))
    layers = range(model.num_layers)
    matrices = [each._replace(name=f"model.layers.{number}.{each.name}") for number in layers for each in block]
    vectors = hidden * (2 * model.num_layers + 1)
    return ModelShape(
        num_parameters=vocabulary_size * hidden + vectors + sum(each.out * each.into for each in matrices),
        matrices=tuple(sorted(matrices)),
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        vocabulary_size=vocabulary_size,
    )


def num_trained(shape: ModelShape, settings: TrainSettings) -> int:
    """Parameters that learn."""
    if settings.by_adapters:
        ends, magnitudes = settings.lora.target_modules, settings.lora.use_dora
        chosen = [each for each in shape.matrices if ends is None or each.name.endswith(ends)]
        adapters = sum(settings.lora.rank * (each.out + each.into) + magnitudes * each.out for each in chosen)
        return adapters + (_in_head(shape) if settings.recipe == "head" else 0)
    if settings.recipe == "head" and settings.head.base == "frozen":
        return _in_head(shape)
    if settings.by_subspaces and not settings.osft.train_others:
        return shape.num_in_matrices
    if settings.expand and settings.expand.train_only_new:
        num_new = settings.expand.num_blocks
        return shape.num_in_matrices * num_new // shape.num_layers + 2 * num_new * shape.hidden_size
    return shape.num_parameters


def _in_head(shape: ModelShape) -> int:
    return (shape.hidden_size + 1) * shape.vocabulary_size


def _tensors(folder: Path) -> dict[str, list[int]]:
    """Names and dimensions of the tensors in a folder's safetensors files."""
    return {
        name: tensor["shape"] for path in sorted(folder.glob(WEIGHTS)) for name, tensor in read_header(path).items()
    }


def _inside(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _size(config: Mapping[str, Any], name: str) -> int:
    return next((int(config[each]) for each in (name, *ALIASES[name]) if config.get(each)), 0)


def _product(dims: Any) -> int:
    total = 1
    for each in dims:
        total *= int(each)
    return total
