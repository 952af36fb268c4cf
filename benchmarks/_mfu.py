"""Model FLOP utilisation: what share of a GPU's arithmetic a training's tokens account for.

Source: Chowdhery et al., PaLM (arXiv 2204.02311), appendix B: a token needs 6 N operations for the N weights, forward
and backward, and 12 L H Q T for attention, with L layers of H heads of width Q over T tokens. What is computed twice to
save memory counts once. N leaves out a table of embeddings that multiplies nothing, as it does where the output layer
is another. Peaks are the makers' dense bf16 figures.
"""

from collections.abc import Mapping
from typing import Any

PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12, "L40S": 362e12}
"""Operations a second of a GPU whose name holds the key; of the SXM models."""


def flops_per_token(config: Mapping[str, Any], *, row_tokens: int, trained: bool = True) -> float:
    """Operations of a token of a row of so many.

    Args:
        config: a Llama-like `config.json`.
        trained: whether the weights learn; where they only pass gradients on, a third of 6 N is not needed.
    """
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    attention = 12 * config["num_hidden_layers"] * config["num_attention_heads"] * width * row_tokens
    return (6 if trained else 4) * num_weights(config) + attention


def num_weights(config: Mapping[str, Any]) -> int:
    """Weights of all matrices that multiply; norms, a few thousand, are left out."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or hidden // heads
    block = 2 * hidden * heads * width + 2 * hidden * groups * width + 3 * hidden * inner
    return int(config["num_hidden_layers"] * block + config["vocab_size"] * hidden)


def utilisation(tokens_per_s: float, flops: float, *, gpu: str) -> float | None:
    """The share of a GPU's peak; None for a GPU whose peak is not known."""
    peak = next((value for name, value in PEAKS.items() if name in gpu), None)
    return None if peak is None else tokens_per_s * flops / peak
