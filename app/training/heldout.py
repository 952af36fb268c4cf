"""The loss on rows that are held out of training, by the model as it stands. Only workers import this (torch).

Guarantees: the mean over learned tokens, whatever the batches and the number of workers; nothing is learned by it.
"""

from pathlib import Path
from typing import Any

import torch

from app.training.data import load_examples, pad
from app.training.dpo import preferred
from app.training.heads.heldout import judged
from app.training.plan import HELD_OUT_FILE, Plan

MOST_TOKENS = 4096
"""Of a pass, padding counted, and at least one row."""


def heldout_figures(engine: Any, folder: Path, plan: Plan) -> dict[str, float]:
    """`heldout_loss` where the run has held-out rows, beside it those of `head` and `dpo`. Every worker calls it."""
    if plan.settings.recipe == "head":
        return judged(engine, folder, plan)
    if plan.settings.recipe == "dpo":
        return preferred(engine, folder, plan)
    loss = heldout_loss(engine, folder, pad_token=plan.pad_token)
    return {} if loss is None else {"heldout_loss": loss}


@torch.no_grad()
def heldout_loss(engine: Any, folder: Path, *, pad_token: int) -> float | None:
    """Nats per learned token of the run's held-out rows; None where it has none. Every worker calls it."""
    if not (folder / HELD_OUT_FILE).exists():
        return None
    examples = sorted(load_examples(folder / HELD_OUT_FILE), key=lambda example: len(example.tokens))
    longest = max(len(example.tokens) for example in examples)
    num_rows = max(1, MOST_TOKENS // longest)
    engine.module.eval()
    total, num_labels = 0.0, 0
    for start in range(0, len(examples), num_rows):
        padded = pad(examples[start : start + num_rows], pad_token)
        input_ids, labels = (torch.from_numpy(each).to(engine.device) for each in padded)
        total += float(engine(input_ids=input_ids, labels=labels, scale=1.0))
        num_labels += int((labels[:, 1:] >= 0).sum())
    engine.module.train()
    return total / num_labels
