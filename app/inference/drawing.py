"""From logits to tokens, every row by its own rules and its own random numbers.

Guarantees: a row's token depends on its own logits, rules and random number alone. Source of top_p: Holtzman et al.
2020, nucleus sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from app.inference.sampling import Sampling

COLDEST = 1e-4
"""Lowest temperature that is reckoned with: a lower one draws the same, and a tiny one is 0 in 32 bits."""


@dataclass(frozen=True)
class Drawn:
    """Tokens of a step, row by row, with their log-probabilities by the model; and the best others where asked for."""

    tokens: list[int]
    logprobs: list[float]
    top: dict[int, list[tuple[int, float]]]
    """Row -> (token, log-probability), best first."""


def draw(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    numbers: Sequence[float],
    allowed: Mapping[int, Any] | None = None,
) -> Drawn:
    """One token for every row.

    Args:
        logits: (rows, vocabulary).
        numbers: for each row, a random number from 0 to 1; a greedy row's is not looked at.
        allowed: row -> which tokens it may draw, (vocabulary) of booleans; a row that is not named may draw any.
    """
    logprobs = logits.float().log_softmax(-1)
    open_to = _masked(logprobs, allowed) if allowed else logprobs
    tokens = open_to.argmax(-1)
    warm = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if warm:
        chosen = _sample(open_to[warm], [samplings[row] for row in warm], [numbers[row] for row in warm])
        tokens[warm] = chosen
    values = logprobs.gather(1, tokens[:, None])[:, 0]
    return Drawn(tokens.tolist(), values.tolist(), _best(logprobs, samplings))


def _masked(logprobs: torch.Tensor, allowed: Mapping[int, Any]) -> torch.Tensor:
    """The same with nothing for tokens that are not allowed."""
    masked = logprobs.clone()
    for row, tokens in allowed.items():
        masked[row, ~torch.from_numpy(tokens).to(masked.device)] = -torch.inf
    return masked


def _sample(logprobs: torch.Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> torch.Tensor:
    """Tokens drawn by inverting each row's cumulated probabilities, the likely tokens first."""
    heat = logprobs.new_tensor([max(each.temperature, COLDEST) for each in samplings])[:, None]
    share = logprobs.new_tensor([each.top_p for each in samplings])[:, None]
    probabilities, order = (logprobs / heat).softmax(-1).sort(dim=-1, descending=True, stable=True)
    below = probabilities.cumsum(-1) - probabilities
    nucleus = below < share
    nucleus[:, 0] = True  # also where top_p is 0 in 32 bits, or the logits are no numbers
    cumulated = (probabilities * nucleus).cumsum(-1)
    at = logprobs.new_tensor(numbers)[:, None] * cumulated[:, -1:]
    places = torch.searchsorted(cumulated, at, right=True)
    return order.gather(1, places.minimum(nucleus.sum(-1, keepdim=True) - 1))[:, 0]


def _best(logprobs: torch.Tensor, samplings: Sequence[Sampling]) -> dict[int, list[tuple[int, float]]]:
    """The likeliest tokens of the rows that ask for some."""
    rows = [row for row, sampling in enumerate(samplings) if sampling.num_logprobs > 0]
    if not rows:
        return {}
    most = min(max(samplings[row].num_logprobs for row in rows), logprobs.shape[-1])
    values, tokens = logprobs[rows].topk(most)
    pairs = [list(zip(*each, strict=True)) for each in zip(tokens.tolist(), values.tolist(), strict=True)]
    return {row: each[: samplings[row].num_logprobs] for row, each in zip(rows, pairs, strict=True)}
