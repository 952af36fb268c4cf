"""Direct preference optimisation: of two answers the better one is made likelier, measured from the base.

Source: Rafailov et al., Direct Preference Optimization (arXiv 2305.18290), equation 7; the smoothed loss is Mitchell's
conservative DPO (2023), the weight of the better answer itself is that of Pang et al. (arXiv 2404.19733).

Guarantees: what the base gives the answers is computed once a run, with the run's own weights before its first step,
in parts that do not depend on the number of workers, and kept in the run's folder; a run that goes on elsewhere
computes the same values again. Only workers import this (torch).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from app.training.data import Example, Floats, load_examples, pad
from app.training.model import AnswerLoss
from app.training.plan import HELD_OUT_FILE, Plan
from app.training.settings import DpoSettings

REFERENCE_FILE, HELD_OUT_REFERENCE_FILE = "reference.npy", "heldout-reference.npy"
PART_EXAMPLES = 32


class PreferenceLoss(AnswerLoss):
    """The sigmoid loss of pairs; rows are their sides, the better one before the worse.

    Notes for the curve: ``reward_margin``, beta times how much more the better answer gained over the base than the
    worse one (nats), and ``pair_accuracy``, the share of pairs where it gained more.
    """

    def __init__(self, model: Any, settings: DpoSettings) -> None:
        super().__init__(model)
        self._settings = settings
        self._notes: dict[str, Tensor] = {}

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        scale: float = 1.0,
        position_ids: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        """input_ids, labels: (2 pairs, tokens); reference: (2 pairs,), log-probabilities of the answers by the base.

        Returns:
            The summed loss times ``scale``; without a reference, the rows' own log-probabilities (2 pairs,).
        """
        logits, targets, rows = self.answers(input_ids, labels, position_ids)
        nats = nn.functional.cross_entropy(logits, targets, reduction="none")
        log_probs = torch.zeros(len(input_ids), device=nats.device).index_add(0, rows, -nats)
        if reference is None:
            return log_probs
        how = self._settings
        margins = -(how.beta * (log_probs - reference)).view(-1, 2).diff(dim=1).squeeze(1)
        kept, swapped = nn.functional.logsigmoid(margins), nn.functional.logsigmoid(-margins)
        losses = -(1 - how.label_smoothing) * kept - how.label_smoothing * swapped
        if how.sft_weight:
            num_tokens = torch.bincount(rows, minlength=len(input_ids))
            losses = losses - how.sft_weight * (log_probs / num_tokens)[::2]
        self._note(reward_margin=margins.detach().sum() * scale, pair_accuracy=(margins > 0).sum() * scale)
        return losses.sum() * scale

    def take_notes(self) -> dict[str, float]:
        taken, self._notes = self._notes, {}
        return {name: float(value) for name, value in taken.items()}

    def _note(self, **values: Tensor) -> None:
        self._notes = {name: self._notes.get(name, 0) + value for name, value in values.items()}


def reference_of(engine: Any, examples: Sequence[Example], path: Path, *, rank: int, num_workers: int) -> Floats:
    """What the engine's model, not trained yet, gives every example's answer: log-probabilities (examples,).

    Every worker calls it; each computes its share, and all have the whole. What the file holds is not computed again.
    """
    held: list[Any] = [np.load(path) if rank == 0 and path.exists() else None]
    torch.distributed.broadcast_object_list(held, src=0)
    if held[0] is not None:
        return np.asarray(held[0], dtype=np.float32)
    values = _computed(engine, examples, rank=rank, num_workers=num_workers)
    if rank == 0:
        staged = path.with_suffix(".staged.npy")
        np.save(staged, values)
        staged.replace(path)
    return values


def look_at_held_out(engine: Any, folder: Path, *, rank: int, num_workers: int) -> None:
    """Note what the model, not trained yet, gives held-out pairs, where there are some; every worker calls it."""
    if (folder / HELD_OUT_FILE).exists():
        held_out, path = load_examples(folder / HELD_OUT_FILE), folder / HELD_OUT_REFERENCE_FILE
        reference_of(engine, held_out, path, rank=rank, num_workers=num_workers)


def preferred(engine: Any, folder: Path, plan: Plan) -> dict[str, float]:
    """`heldout_loss`, the mean sigmoid loss of the held-out pairs without smoothing or the better answer's own loss;
    `heldout_pair_accuracy` and `heldout_reward_margin`, as in the curve. Every worker calls it; empty without pairs."""
    if not (folder / HELD_OUT_FILE).exists():
        return {}
    group = torch.distributed
    examples, before = load_examples(folder / HELD_OUT_FILE), np.load(folder / HELD_OUT_REFERENCE_FILE)
    gained = _computed(engine, examples, rank=group.get_rank(), num_workers=group.get_world_size()) - before
    margins = plan.settings.dpo.beta * (gained[::2] - gained[1::2])
    return {
        "heldout_loss": float(np.logaddexp(0.0, -margins).mean()),
        "heldout_pair_accuracy": float((margins > 0).mean()),
        "heldout_reward_margin": float(margins.mean()),
    }


@torch.no_grad()
def _computed(engine: Any, examples: Sequence[Example], *, rank: int, num_workers: int) -> Floats:
    values = torch.zeros(len(examples), dtype=torch.float32, device=engine.device)
    order = np.argsort([len(each.tokens) for each in examples], kind="stable")
    parts = [order[start : start + PART_EXAMPLES] for start in range(0, len(order), PART_EXAMPLES)]
    engine.eval()
    for first in range(0, len(parts), num_workers):  # every worker makes as many calls, for ZeRO-3 gathers in each
        mine = first + rank
        part = parts[min(mine, len(parts) - 1)]
        input_ids, labels = (torch.from_numpy(each) for each in pad([examples[place] for place in part]))
        log_probs = engine(input_ids=input_ids.to(engine.device), labels=labels.to(engine.device))
        if mine < len(parts):
            values[torch.from_numpy(part).to(engine.device)] = log_probs
    engine.train()
    torch.distributed.all_reduce(values)
    whole: Floats = values.cpu().numpy()
    return whole
