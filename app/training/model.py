"""The model that a run trains: a new Llama, a base model, or adapters on one. Only workers import this (torch).

Guarantees: a new model's weights follow from its settings alone. On CPUs attention is computed plainly (`eager`):
torch's fused kernel takes four times as long backwards there, on rows as short as these. On a GPU it is fused (`sdpa`).
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from app.inference.chat import END, PAD, SPECIAL_TOKENS
from app.training.adapters import LoraSettings
from app.training.architecture import build
from app.training.data import IGNORED
from app.training.extensions import on_gpu
from app.training.settings import ModelSettings

ATTENTION = "eager"
ON_GPU = "sdpa"
MODEL_CARD = "README.md"
"""PEFT writes a card of blanks; a version's manifest says more."""


def attention() -> str:
    """How attention is computed here."""
    return ON_GPU if on_gpu() else ATTENTION


def new_model(settings: ModelSettings, *, vocabulary_size: int) -> Any:
    """A Llama, or the model of a configuration, with seeded random weights in float32."""
    torch.manual_seed(settings.seed)
    if settings.config:
        return build(settings.config, vocabulary_size=vocabulary_size, attention=attention())
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=settings.max_context_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index(END),
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        attn_implementation=attention(),
    )
    return LlamaForCausalLM(config)


def load_model(folder: Path, *, config: Any = None, quantize: bool = False) -> Any:
    """A model folder's weights in float32, or those of its linear layers in 4 bits, on the GPU.

    Args:
        config: another configuration than the folder's, which its weights fit.
    """
    options: dict[str, Any] = {"dtype": torch.float32, **({"config": config} if config else {})}
    if quantize:
        from transformers import BitsAndBytesConfig

        how = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, **how)
        options |= {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=attention(), local_files_only=True, **options
    )


def with_adapters(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """The model frozen, with trainable low-rank adapters on every linear layer, or on those that are named."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, lora_config(settings, task_type="CAUSAL_LM"))


def lora_config(settings: LoraSettings, **more: Any) -> Any:
    """Adapters in PEFT's words."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) if settings.target_modules else "all-linear",
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        **more,
    )


def merged(model: Any) -> Any:
    """The model with what its adapters learned added to its weights, in float32, and without adapters."""
    return model.float().merge_and_unload()


class AnswerLoss(nn.Module):
    """What a run makes small: a module around the model, called with a batch.

    Cross-entropy over the positions that carry a label; logits are made for those positions only.

    The sum is divided by the number of labels of the whole batch over all workers and multiplied by the number of
    workers, so that the mean of the workers' gradients is the gradient of the batch, however it was divided.
    """

    plain_head = True
    """Logits are the last hidden states through the output layer, as in all but a few models."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        scale: float,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids, labels, position_ids: (rows, tokens), labels[i] is the token at i or -100; returns a scalar.

        Where positions begin anew in a row, so does attention.
        """
        logits, targets, _ = self.answers(input_ids, labels, position_ids)
        return nn.functional.cross_entropy(logits, targets, reduction="sum") * scale

    def answers(
        self, input_ids: torch.Tensor, labels: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (labels, vocabulary) in float32 of the positions that carry a label, their tokens, their rows."""
        causal = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        targets = labels[:, 1:]
        chosen = targets != IGNORED
        given = {"input_ids": input_ids, "use_cache": False}
        given |= {} if position_ids is None else {"position_ids": position_ids}
        if self.plain_head:
            hidden = causal.get_decoder()(**given).last_hidden_state[:, :-1]
            logits = causal.get_output_embeddings()(hidden[chosen]).float()
        else:
            logits = causal(**given).logits[:, :-1][chosen].float()
        return logits, targets[chosen], chosen.nonzero()[:, 0]

    def head_parameters(self) -> list[nn.Parameter]:
        """What is new beside the base and learns at a rate of its own: here, nothing."""
        return []

    def take_notes(self) -> dict[str, float]:
        """Figures of this worker's rows since the last call, for the curve beside the loss."""
        return {}


def save_model(model: Any, folder: Path, *, dtype: str, base_digest: str | None = None, state: Any = None) -> None:
    """Write the model, or its adapters alone, as safetensors; adapters name their base by digest, not by path.

    Args:
        state: the whole model's weights by name, where the model holds only a part of them (ZeRO-3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapters = getattr(model, "peft_config", {})
    for config in adapters.values():
        config.base_model_name_or_path = base_digest
    options: dict[str, Any] = {"save_embedding_layers": False} if adapters else {}
    kind = getattr(torch, dtype)
    if state is None:
        model.to(kind)
    else:
        options["state_dict"] = {name: value.to(kind) for name, value in state.items()}
    model.save_pretrained(folder, **options)
    (folder / MODEL_CARD).unlink(missing_ok=True)
