"""How an encoder learns a head per task, in this process: batches, AdamW, adapters that are merged at the end.

Guarantees: the order of the rows follows from the settings' seed and a name; adapters are merged into the encoder when
they are trained; the table of word embeddings stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from app.training.adapters import LoraSettings
from app.training.errors import NothingToTrain
from app.training.heads.per_task import Batch, HeadedEncoder, LabelledRow
from app.training.heads.settings import HeadSettings
from app.training.model import lora_config

WINDOW_BATCHES = 16
"""Batches among which rows are sorted by length, so that little of a batch is padding."""


def train_heads(model: HeadedEncoder, rows: Sequence[LabelledRow], settings: HeadSettings) -> float:
    """The whole recipe: learn rows, of one task or of several at once, whose heads are there; returns the last loss.

    Raises:
        NothingToTrain: there are no rows.
    """
    adapted = settings.base == "adapted"
    if adapted:
        add_adapters(model, settings.lora, seed=settings.seed)
    batches = ordered_batches(rows, settings, name="all")
    loss = fit(model, [[Batch.of(batch)] for batch in batches], settings, tasks={row.task for row in rows})
    if adapted:
        merge_adapters(model)
    return loss


def ordered_batches(rows: Sequence[LabelledRow], settings: HeadSettings, *, name: str) -> list[list[LabelledRow]]:
    """The batches of all epochs; ``name`` and the seed decide the order.

    Raises:
        NothingToTrain: there are no rows.
    """
    if not rows:
        raise NothingToTrain(f"{name} has no rows to learn: give it some, or leave it out")
    order = np.random.default_rng(_seed_of(settings.seed, name))
    return [batch for _ in range(settings.num_epochs) for batch in _epoch(rows, settings.batch_size, order)]


def _epoch(rows: Sequence[LabelledRow], size: int, order: np.random.Generator) -> Iterator[list[LabelledRow]]:
    shuffled: NDArray[np.int64] = order.permutation(len(rows))
    size = -(-len(rows) // -(-len(rows) // size))  # as many batches, but all of one size
    for start in range(0, len(rows), size * WINDOW_BATCHES):
        window = sorted(shuffled[start : start + size * WINDOW_BATCHES].tolist(), key=lambda at: len(rows[at].ids))
        firsts = range(0, len(window), size)
        for first in order.permutation(list(firsts)).tolist():
            yield [rows[at] for at in window[first : first + size]]


def fit(
    model: HeadedEncoder,
    steps: Sequence[Sequence[Batch]],
    settings: HeadSettings,
    *,
    tasks: set[str],
    keep_weight: float = 1.0,
    after_step: Callable[[], None] | None = None,
) -> float:
    """Step through batches with AdamW; returns the mean loss of the last step.

    Args:
        steps: the batches of each step; a step's loss is the mean over all rows of them.
        tasks: whose heads learn.
        keep_weight: of the logits that rows are to keep, beside a row's cross-entropy.
        after_step: called after each of the optimiser's steps.
    """
    model.train()
    optimizer = _optimizer(model, settings, tasks)
    rates = [group["lr"] for group in optimizer.param_groups]
    mean = 0.0
    for number, batches in enumerate(steps):
        share = rate_share(number, len(steps), warmup_share=settings.warmup_share)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        mean = _step(model, batches, optimizer, settings, keep_weight)
        if after_step:
            after_step()
    return mean


def _step(
    model: HeadedEncoder,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    settings: HeadSettings,
    keep_weight: float,
) -> float:
    """One backward pass for all of a step's batches, so that what watches the gradients sees their sum alone."""
    optimizer.zero_grad(set_to_none=True)
    losses = [model.loss(batch, keep_weight=keep_weight) for batch in batches]
    loss = torch.stack(losses).sum() / sum(len(batch.labels) for batch in batches)
    loss.backward()  # type: ignore[no-untyped-call]
    learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    nn.utils.clip_grad_norm_(learned, settings.max_grad_norm)
    optimizer.step()
    return float(loss.detach())


def rate_share(step: int, num_steps: int, *, warmup_share: float) -> float:
    """The learning rate of a step as a share of the highest: it rises in a straight line, then falls so to 0."""
    warmup = max(1, round(warmup_share * num_steps))
    return min((step + 1) / warmup, (num_steps - step) / max(1, num_steps - warmup + 1))


def _optimizer(model: HeadedEncoder, settings: HeadSettings, tasks: set[str]) -> torch.optim.Optimizer:
    """AdamW on the heads of ``tasks`` and on what of the encoder learns; matrices decay, vectors do not."""
    if settings.base == "frozen":
        model.encoder.requires_grad_(False)
    else:
        word_table(model).requires_grad_(False)
    body = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    heads = [parameter for task in sorted(tasks) for parameter in model.head(task).parameters()]
    groups = [
        {"params": [p for p in each if (p.ndim >= 2) == decays], "lr": rate, "weight_decay": decay}
        for each, rate in ((body, settings.learning_rate), (heads, settings.head_learning_rate))
        for decays, decay in ((True, settings.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def word_table(model: HeadedEncoder) -> nn.Parameter:
    """The encoder's word embeddings, which no recipe here trains: half the weights, for few rows."""
    return cast("nn.Parameter", model.encoder.get_input_embeddings().weight)


def add_adapters(model: HeadedEncoder, settings: LoraSettings, *, seed: int) -> None:
    """Freeze the encoder, with low-rank adapters that learn on every linear layer."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    model.encoder = get_peft_model(model.encoder, lora_config(settings))


def merge_adapters(model: HeadedEncoder) -> None:
    """Add what PEFT's adapters learned to the encoder's weights, and take the adapters off."""
    model.encoder = model.encoder.merge_and_unload()
    model.encoder.requires_grad_(True)


def _seed_of(seed: int, name: str) -> int:
    """A seed that follows from another and a name, the same in every process."""
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0])
