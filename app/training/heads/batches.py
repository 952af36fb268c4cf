"""Batches of the recipe `head`: rows padded on the right, with what is to be said of each.

Guarantees: those of :class:`app.training.data.Batches`, whose order and passes they have; the mean over a step is that
of its rows, or in `token` of its tagged words, however they were divided. Imports no torch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.training.data import IGNORED, Batches, Example, Ints, pad
from app.training.heads.settings import Task


class HeadBatch(NamedTuple):
    """A worker's part of a step."""

    input_ids: Ints
    """(rows, tokens), padded on the right."""

    attention_mask: Ints
    """(rows, tokens), 0 where padding stands."""

    segments: Ints
    """(rows, tokens), 1 from the second text of a row on."""

    labels: NDArray[Any]
    """(rows,) in `classification` and `score`; (rows, labels), 0 or 1, in `multilabel`; (rows, 2) first and last token
    in `span`; (rows, tokens) in `token`."""

    scale: float = 1.0
    """What the summed loss is multiplied by."""


class HeadBatches(Batches):
    """The batches of a run, by step.

    Args:
        task: what is learned of each row.
        options: as of :class:`app.training.data.Batches`; nothing is packed, noisy or in pairs.
    """

    def __init__(self, examples: Sequence[Example], *, task: Task, **options: Any) -> None:
        super().__init__(examples, **options)
        self._task = task

    def _weight(self, indices: Ints) -> int:
        return self._num_labels(indices)

    def _num_labels(self, part: Ints) -> int:
        if self._task != "token":
            return len(part)
        return sum(label != IGNORED for place in part for label in self.examples[place].target)

    def _batch(self, part: Ints, step: int, scale: float) -> Any:
        return collate([self.examples[place] for place in part], self._task, pad_token=self._pad_token, scale=scale)


def collate(examples: Sequence[Example], task: Task, *, pad_token: int, scale: float = 1.0) -> HeadBatch:
    """Examples in one batch."""
    input_ids, _ = pad(examples, pad_token)
    lengths = np.array([[len(example.tokens)] for example in examples])
    seconds = np.array([[example.num_prompt] for example in examples])
    places = np.arange(input_ids.shape[1])[None]
    mask = (places < lengths).astype(np.int64)
    segments = mask * (places >= seconds)
    return HeadBatch(input_ids, mask, segments, _labels(examples, task, num_tokens=input_ids.shape[1]), scale)


def _labels(examples: Sequence[Example], task: Task, *, num_tokens: int) -> NDArray[Any]:
    if task == "score":
        return np.array([example.target[0] for example in examples], dtype=np.float32)
    if task == "multilabel":
        return np.array([example.target for example in examples], dtype=np.float32)
    if task == "classification":
        return np.array([example.target[0] for example in examples], dtype=np.int64)
    if task == "span":
        return np.array([example.target[:2] for example in examples], dtype=np.int64)
    labels = np.full((len(examples), num_tokens), IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        labels[row, : len(example.target)] = example.target
    return labels
