"""A byte-level BPE tokenizer trained on a corpus, written as the files that transformers reads.

Guarantees: the same texts in the same order give the same bytes; every text can be encoded (the 256 bytes are in the
vocabulary); the special tokens of :mod:`app.inference.chat` have the first ids. Imports neither torch nor transformers.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from app.inference.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
OLD_FORMS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")
"""Other files that may say what tokenizer.json says."""
OF_TOKENIZERS = (
    *(TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *OLD_FORMS,
)
"""Names of the files that tokenizers are kept in; ours have the first two."""


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> Tokenizer:
    """Learn merges from the texts until the vocabulary is full or nothing is left to merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_context_tokens: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` with the chat template."""
    tokenizer.save(str(folder / TOKENIZER_FILE))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_context_tokens,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token not in (END, PAD)],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that make its tokenizer."""
    return [folder / name for name in OF_TOKENIZERS if (folder / name).is_file()]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder."""
    return Tokenizer.from_file(str(folder / TOKENIZER_FILE))
