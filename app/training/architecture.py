"""The recipe `pretrain`: a new model of any architecture that transformers knows, from a Hugging Face `config.json`.

Guarantees: a configuration that cannot be trained is refused before a run starts; nothing is downloaded, and no code
that comes with a model is run; the weights follow from the configuration and the seed. Vocabulary and special tokens
are those of the tokenizer that is trained with it. Not guaranteed: that large models (over ``TRIED_PARAMETERS``) run;
they are only put together without their weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.inference.chat import END, PAD, SPECIAL_TOKENS
from app.training.errors import BadArchitecture
from app.training.settings import ModelSettings

Config = Mapping[str, Any]
TRIED_PARAMETERS = 50_000_000
"""A smaller model is tried with weights."""
NOT_OF_THE_SHAPE = (
    *("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache"),
    *("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"),
)
KNOWN = "llama, qwen3, mistral, gemma2, gpt2"


def with_architecture(model: ModelSettings) -> ModelSettings:
    """The settings with the content of their configuration file, checked, in the place of its path.

    Raises:
        BadArchitecture: the file cannot be read, or no model can be made of it.
    """
    given = read_config(model.config_file) if model.config_file else model.config
    if given is None:
        return model
    config = {name: value for name, value in given.items() if name not in NOT_OF_THE_SHAPE}
    context_tokens = _check(config, model.vocabulary_size) or model.max_context_tokens
    return model.model_copy(update={"config_file": None, "config": config, "max_context_tokens": context_tokens})


def read_config(path: Path) -> dict[str, Any]:
    """The content of a configuration file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArchitecture(f"{path} is no configuration ({error}): name a model's config.json") from error
    if not isinstance(found, dict):
        raise BadArchitecture(f"{path} holds no settings by name: name a model's config.json")
    return found


def make_config(config: Config, *, vocabulary_size: int) -> Any:
    """transformers' configuration, with the vocabulary and the special tokens of our tokenizers."""
    from transformers import CONFIG_MAPPING

    ids = {"bos_token_id": None, "eos_token_id": SPECIAL_TOKENS.index(END), "pad_token_id": SPECIAL_TOKENS.index(PAD)}
    shape = {name: value for name, value in config.items() if name != "model_type"}
    return CONFIG_MAPPING[config["model_type"]](**{**shape, "vocab_size": vocabulary_size, **ids})


def build(config: Config, *, vocabulary_size: int, attention: str) -> Any:
    """A model of random weights in float32; seed before."""
    import torch
    from transformers import AutoModelForCausalLM

    made = make_config(config, vocabulary_size=vocabulary_size)
    return AutoModelForCausalLM.from_config(made, attn_implementation=attention, dtype=torch.float32)


def _check(config: Config, vocabulary_size: int) -> int | None:
    """Refuse what cannot be trained; the longest context that the model states, in tokens."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind = config.get("model_type")
    if "auto_map" in config:
        raise BadArchitecture("this configuration needs code of its own (`auto_map`), which is never run: name another")
    if kind not in CONFIG_MAPPING:
        raise BadArchitecture(f"model_type {kind!r} is unknown: name an architecture of transformers, such as {KNOWN}")
    try:
        made = make_config(config, vocabulary_size=vocabulary_size)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise BadArchitecture(f"{kind} cannot be configured so: {_line(error)}") from error
    if type(made) not in AutoModelForCausalLM._model_mapping or made.get_text_config() is not made:
        raise BadArchitecture(f"{kind} is no model of text alone that writes token by token: name {KNOWN}, or the like")
    _check_heads(made)
    _try(config, vocabulary_size)
    context = getattr(made, "max_position_embeddings", None)
    return context if isinstance(context, int) else None


def _check_heads(made: Any) -> None:
    heads, groups = (getattr(made, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    width = getattr(made, "hidden_size", None)
    if heads and groups and heads % groups:
        raise BadArchitecture(f"num_attention_heads ({heads}) is no multiple of num_key_value_heads ({groups})")
    if heads and width and not getattr(made, "head_dim", None) and width % heads:
        raise BadArchitecture(f"hidden_size ({width}) is no multiple of num_attention_heads ({heads})")


def _try(config: Config, vocabulary_size: int) -> None:
    """Put the model together, and let a small one look at a few tokens: none may see those after it."""
    import torch

    options: dict[str, Any] = {"vocabulary_size": vocabulary_size, "attention": "eager"}
    try:
        with torch.device("meta"):
            bare = build(config, **options)
        if sum(parameter.numel() for parameter in bare.parameters()) > TRIED_PARAMETERS:
            return
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model = build(config, **options).eval()
            one, other = (model(torch.tensor([[5, 6, 7, last]])).logits[0, :3] for last in (8, 9))
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RuntimeError, IndexError) as error:
        raise BadArchitecture(f"a {config['model_type']} of this configuration does not fit: {_line(error)}") from error
    if not torch.allclose(one, other, atol=1e-4):
        raise BadArchitecture(f"a {config['model_type']} of this configuration sees the tokens that it is to write")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
