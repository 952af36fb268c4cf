"""The forward pass of a BERT, and a folder with one: ``config.json``, ``model.safetensors``.

Guarantees: what is loaded is a BERT as published, its weights of the sizes that its configuration states; anything else
is refused with a sentence. Not guaranteed: that it was trained; digests are held by whoever loads it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.core.errors import SignalboxError
from app.inference.processor import computes_bf16

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EPSILON = 1e-12
BERT = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
"""What ``config.json`` must say where it says anything of it; the forward pass below is that and nothing else."""
LAYER = (
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


class EncoderUnusable(SignalboxError):
    """The folder holds no BERT: it needs config.json, model.safetensors and tokenizer.json that fit together."""


class Bert:
    """The forward pass of a BERT encoder, by torch's own operators; a third less time than ``BertModel`` in bf16.

    Source: Devlin et al., BERT (NAACL 2019): post-norm layers, exact GELU, absolute positions.
    """

    def __init__(
        self, weights: "dict[str, Tensor]", *, dtype: "torch.dtype", num_heads: int = 12, epsilon: float = EPSILON
    ) -> None:
        """Take weights by the names that transformers' ``BertModel`` gives them."""
        import torch

        self._heads, self._epsilon = num_heads, epsilon
        weights = {name: value.to(dtype) for name, value in weights.items()}

        def both(name: str) -> "tuple[Tensor, Tensor]":
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        def layer(name: str) -> "list[tuple[Tensor, Tensor]]":
            parts = [both(f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
            joined = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
            return [joined, *(both(f"{name}.{part}") for part in LAYER)]

        table = weights["embeddings.token_type_embeddings.weight"]
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = weights["embeddings.position_embeddings.weight"] + table[0]
        self._second = table[-1] - table[0]
        self._norm = both("embeddings.LayerNorm")
        num_layers = sum(name.endswith(".attention.self.query.weight") for name in weights)
        self._layers = [layer(f"encoder.layer.{number}") for number in range(num_layers)]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Words, positions, numbers of a hidden state, layers."""
        return len(self._words), len(self._places), self._words.shape[1], len(self._layers)

    def __call__(self, ids: "Tensor", mask: "Tensor | None" = None, second: "Tensor | None" = None) -> "Tensor":
        """Hidden states (n, length, dim) of token ids (n, length).

        Args:
            mask: True where attention may look.
            second: (n, length), True where the second of two texts stands.
        """
        from torch.nn.functional import embedding, gelu, layer_norm, linear, scaled_dot_product_attention

        num, length = ids.shape
        hidden = embedding(ids, self._words) + self._places[:length]
        if second is not None:
            hidden = hidden + second.unsqueeze(-1) * self._second
        shape = hidden.shape[-1:]
        hidden = layer_norm(hidden, shape, *self._norm, self._epsilon)
        for joined, out, out_norm, inner, outer, outer_norm in self._layers:
            split = linear(hidden, *joined).view(num, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            seen = scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask)
            seen = seen.transpose(1, 2).reshape(num, length, -1)
            hidden = layer_norm(linear(seen, *out) + hidden, shape, *out_norm, self._epsilon)
            more = linear(gelu(linear(hidden, *inner)), *outer)
            hidden = layer_norm(more + hidden, shape, *outer_norm, self._epsilon)
        return hidden


@dataclass(frozen=True)
class Shape:
    """Sizes of a BERT, as its ``config.json`` states them."""

    dim: int
    num_heads: int
    num_layers: int
    num_words: int
    num_positions: int
    epsilon: float


def read_shape(folder: Path) -> Shape:
    """Sizes of the BERT in a folder.

    Raises:
        EncoderUnusable: its ``config.json`` is missing, no configuration, or that of another architecture.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        other = [f"{key} {config[key]!r}" for key, value in BERT.items() if config.get(key, value) != value]
        shape = Shape(
            dim=int(config["hidden_size"]),
            num_heads=int(config["num_attention_heads"]),
            num_layers=int(config["num_hidden_layers"]),
            num_words=int(config["vocab_size"]),
            num_positions=int(config["max_position_embeddings"]),
            epsilon=float(config.get("layer_norm_eps", EPSILON)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderUnusable(f"{folder} has no config.json of a BERT ({error!r}): name one that has") from error
    if other or shape.num_heads < 1 or shape.dim % shape.num_heads:
        said = other[0] if other else f"{shape.num_heads} attention heads for {shape.dim} numbers"
        raise EncoderUnusable(f"config.json in {folder} says {said}, and only BERT as published runs: name another")
    return shape


def load_bert(folder: Path) -> tuple[Bert, Shape]:
    """The BERT of a folder, its weights held against its configuration and rounded to bf16; it computes in fp32 where
    the processor has no products of bf16.

    Raises:
        EncoderUnusable: weights are missing, no safetensors, or of other sizes than ``config.json`` says.
    """
    import torch

    shape, weights = read_shape(folder), read_weights(folder)
    try:
        rounded = {name: value.to(torch.bfloat16) for name, value in weights.items()}
        dtype = torch.bfloat16 if computes_bf16() else torch.float32
        model = Bert(rounded, dtype=dtype, num_heads=shape.num_heads, epsilon=shape.epsilon)
    except (KeyError, RuntimeError) as error:
        raise EncoderUnusable(f"{folder} has no weights of a BERT ({error!r}): name a folder that has") from error
    if model.sizes != (shape.num_words, shape.num_positions, shape.dim, shape.num_layers):
        said = f"the weights in {folder} have sizes {model.sizes}, which config.json does not say"
        raise EncoderUnusable(f"{said}: take both of one model")
    return model, shape


def read_weights(folder: Path) -> "dict[str, Tensor]":
    """The weights of a folder, by the names that ``BertModel`` gives them; those of a head keep their own.

    Raises:
        EncoderUnusable: they are missing, or no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / "model.safetensors")
    except (OSError, RuntimeError, SafetensorError) as error:
        raise EncoderUnusable(f"{folder} has no weights of a BERT ({error!r}): name a folder that has") from error
    return {name.removeprefix("bert."): value for name, value in weights.items()}
