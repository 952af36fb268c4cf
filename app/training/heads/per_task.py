"""One encoder that carries a head per task, in this process: the model, what it says, and how it is kept.

A text's features are the mean of its tokens' last hidden states, as the sentence encoders of this project pool them,
brought to mean 0 and variance 1; a head is one linear layer on them that begins at 0, and one encoder may carry a head
per task. Guarantees: what is saved is a plain encoder that transformers loads, and the heads beside it. Attention is
computed plainly: torch's fused CPU kernel is slower backwards. Not guaranteed: the same bits for a text in batches of
other sizes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from app.inference.encoder import cut_batches
from app.inference.processor import computes_bf16
from app.training.heads.settings import HeadSettings
from app.training.model import ATTENTION

SCORED_TOKENS = 2048
ENCODER_FOLDER, HEADS_FILE, LABELS_FILE = "encoder", "heads.safetensors", "heads.json"


@dataclass(frozen=True)
class LabelledRow:
    """A text as token ids, special tokens among them, and the number of its label in its task; ``said``: by task, what
    that task's head said of it, for a model that shall go on saying so."""

    task: str
    ids: Sequence[int]
    label: int
    said: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length: ids and mask (rows, tokens), labels (rows), which rows are of which task, and by task
    which rows have logits to keep, and these (rows, labels)."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    places: Mapping[str, Tensor]
    told: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, rows: Sequence[LabelledRow]) -> "Batch":
        """Pad rows; an empty sequence is refused."""
        if not rows:
            raise ValueError("a batch needs at least one row")
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        places: dict[str, list[int]] = {}
        told: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = torch.tensor(row.ids)
            mask[place, : len(row.ids)] = 1
            places.setdefault(row.task, []).append(place)
            for task in row.said:
                told.setdefault(task, []).append(place)
        return cls(
            ids,
            mask,
            labels=torch.tensor([row.label for row in rows]),
            places={task: torch.tensor(found) for task, found in places.items()},
            told={
                task: (torch.tensor(found), torch.tensor([rows[place].said[task] for place in found]))
                for task, found in told.items()
            },
        )


class HeadedEncoder(nn.Module):
    """An encoder with a head per task; a task is known by its name."""

    def __init__(self, encoder: Any, *, dtype: str = "bfloat16") -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList()
        self.labels: dict[str, tuple[str, ...]] = {}
        self.computes_bf16 = dtype == "bfloat16" and computes_bf16()
        self._dim = int(encoder.config.hidden_size)

    def add_head(self, task: str, labels: Sequence[str]) -> None:
        """A head for a task; one that is there already stays."""
        if task in self.labels:
            return
        head = nn.Linear(self._dim, len(labels))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.labels[task] = tuple(labels)
        self.heads.append(head)

    def head(self, task: str) -> nn.Linear:
        """The head of a task that was added."""
        return cast("nn.Linear", self.heads[list(self.labels).index(task)])

    def features(self, batch: Batch) -> Tensor:
        """Mean of the last hidden states, normalised, float32 (rows, dim)."""
        with self._types():
            hidden = self.encoder(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        shown = batch.mask.unsqueeze(-1)
        return nn.functional.layer_norm((hidden.float() * shown).sum(1) / shown.sum(1), (self._dim,))

    def loss(self, batch: Batch, *, keep_weight: float = 1.0) -> Tensor:
        """Summed loss of a batch's rows: cross-entropy, each by the head of its task, and for each logits that a row
        is to keep, so many times the mean squared distance to these (Buzzega et al., Dark Experience, NeurIPS 2020).
        """
        features = self.features(batch)
        parts = [
            nn.functional.cross_entropy(self.head(task)(features[at]), batch.labels[at], reduction="sum")
            for task, at in batch.places.items()
        ]
        parts += [
            keep_weight * ((self.head(task)(features[at]) - logits) ** 2).mean(1).sum()
            for task, (at, logits) in batch.told.items()
        ]
        return torch.stack(parts).sum()

    def _types(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.computes_bf16)


def load_headed(folder: Path, settings: HeadSettings) -> HeadedEncoder:
    """A folder's encoder in float32, without dropout and without heads."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    encoder = AutoModel.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation=ATTENTION, add_pooling_layer=False,
        local_files_only=True,
    )  # fmt: skip
    return HeadedEncoder(encoder, dtype=settings.dtype)


def read_texts(
    texts: Sequence[str], labels: Sequence[int], *, task: str, tokenizer: Tokenizer, max_tokens: int
) -> list[LabelledRow]:
    """Rows of texts; one that is longer than ``max_tokens`` is cut at its end."""
    tokenizer.enable_truncation(max_length=max_tokens)
    tokenizer.no_padding()
    coded = tokenizer.encode_batch(list(texts))
    return [LabelledRow(task, item.ids, label) for item, label in zip(coded, labels, strict=True)]


@torch.no_grad()
def features_of(model: HeadedEncoder, rows: Sequence[LabelledRow]) -> Tensor:
    """The features (rows, dim) in the order of the rows."""
    model.eval()
    found: dict[int, Tensor] = {}
    with fused_attention(model.encoder):
        for places in cut_batches([len(row.ids) for row in rows], max_texts=len(rows), max_tokens=SCORED_TOKENS):
            found |= dict(zip(places, model.features(Batch.of([rows[place] for place in places])), strict=True))
    return torch.stack([found[place] for place in range(len(rows))])


@contextmanager
def fused_attention(encoder: Any) -> Iterator[None]:
    """Attention by torch's fused kernel, a quarter faster forwards, in the block."""
    before = encoder.config._attn_implementation
    encoder.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        encoder.set_attn_implementation(before)


def predict(model: HeadedEncoder, rows: Sequence[LabelledRow]) -> NDArray[np.int64]:
    """The label's number of each row, in the order of the rows."""
    features, found = features_of(model, rows), np.zeros(len(rows), dtype=np.int64)
    for task in {row.task for row in rows}:
        at = [place for place, row in enumerate(rows) if row.task == task]
        found[at] = model.head(task)(features[at]).argmax(1).numpy()
    return found


def accuracy(model: HeadedEncoder, rows: Sequence[LabelledRow]) -> float:
    """Share of rows whose label is found."""
    return float(np.mean(predict(model, rows) == np.array([row.label for row in rows])))


def save_headed(model: HeadedEncoder, folder: Path) -> None:
    """Write the encoder as transformers loads it, and the heads: ``TASK.weight``, ``TASK.bias`` and their labels."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.encoder.save_pretrained(folder / ENCODER_FOLDER)
    heads = {
        f"{task}.{part}": value.detach().contiguous()
        for task in model.labels
        for part, value in model.head(task).named_parameters()
    }
    save_file(heads, folder / HEADS_FILE)
    (folder / LABELS_FILE).write_text(json.dumps(model.labels, indent=2), encoding="utf-8")


def open_headed(folder: Path, settings: HeadSettings) -> HeadedEncoder:
    """What :func:`save_headed` wrote."""
    from safetensors.torch import load_file

    model = load_headed(folder / ENCODER_FOLDER, settings)
    saved = load_file(folder / HEADS_FILE)
    for task, labels in json.loads((folder / LABELS_FILE).read_text(encoding="utf-8")).items():
        model.add_head(task, labels)
        model.head(task).load_state_dict({part: saved[f"{task}.{part}"] for part in ("weight", "bias")})
    return model
