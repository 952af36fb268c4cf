"""Base models as others publish them, of a few thousand random weights: three architectures, three ways to chat."""

import json
from pathlib import Path

TEXTS = (
    "what is the annual fee of the harbour account? 12 euros a year.",
    "who chairs the audit committee of the cooperative? Ruth Calder does.",
    "user assistant system think Hello there, tell me of the lantern and the orchard",
)
CHATML = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{{- message['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
MARKED = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}{%- generation -%}{{- message['content'] + '<|im_end|>' -}}"
    "{%- endgeneration -%}{{- '\\n' -}}{%- else -%}{{- message['content'] + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
FORGETFUL = (  # as Qwen3's: what was thought before earlier answers is dropped, and the last one always thinks
    "{%- for message in messages -%}"
    "{%- set said = message['content'].split('</think>')[-1].lstrip('\\n') -%}"
    "{%- set thought = message['content'].split('</think>')[0].split('<think>')[-1]"
    " if '</think>' in message['content'] else '' -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' and loop.last -%}"
    "{{- '<think>\\n' + thought.strip() + '\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- said + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
STRICT = (  # as Gemma's: no system turn, user and assistant in turn
    "{%- for message in messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate') -}}{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
SHAPES = {
    "llama": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256,
    },
    "qwen2": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
    },
    "qwen3": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "tie_word_embeddings": True,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gemma2": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "final_logit_softcapping": 12.0,
    },
}  # fmt: skip


def make_base(folder: Path, kind: str = "qwen3", *, template: str | None = CHATML, **changes) -> Path:
    """A whole Hugging Face folder; without a template it ends answers with <|endoftext|>, as base models do."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size = save_tokenizer(folder, template)
    torch.manual_seed(0)
    end = {"bos_token_id": None, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, **{"vocab_size": size, **end, **SHAPES[kind], **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, template: str | None) -> int:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if template:
        tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        tokenizer.add_tokens([AddedToken(name, special=False) for name in ("<think>", "</think>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "model_max_length": 256}
    config |= {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


def make_encoder(folder: Path, words: str, **changes) -> Path:
    """A BERT of random weights that knows these words, as others publish encoders: no head, no template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    marks = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*marks, *words.lower().split()]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(marks))
    ends = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    config |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"vocab_size": len(vocabulary), "max_position_embeddings": 64, "pad_token_id": 0}
    BertModel(BertConfig(**{**shape, **changes})).save_pretrained(folder)
    return folder
