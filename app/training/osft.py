"""Orthogonal subspace fine-tuning: the directions that a matrix uses most stay as they are, the others learn.

Source: Nayak et al., Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning
(arXiv 2504.07097). A linear layer's weight is W0 = U S V. Its k largest directions are kept; what is learned must be
orthogonal to them on both sides. The paper trains the factors of the rest; the weights that these can reach are
exactly those W with U_h^T W = S_h V_h and W V_h^T = U_h S_h, that is W = W0 + P (W - W0) Q, where P and Q project onto
the complements of U_h's columns and V_h's rows. So the weight itself is trained here, as one dense matrix: nothing is
rebuilt in the forward pass, and what is saved is a plain model.

How: the gradient becomes P G Q before DeepSpeed reduces it (the projection is linear, so each worker's share may be
projected alone, at every ZeRO stage). AdamW scales element by element, which leaks out of the subspace, so after each
step the fp32 masters are projected too, and the weights made from them anew.

Guarantees: with ratio 0 no chosen matrix changes, with ratio 1 it is plain training; the invariants hold in the
masters to ``TOLERANCE``, and in the weights as well as their type can state them. Not guaranteed: anything about
embeddings, norms and biases; they are frozen, or train freely.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from app.training.errors import SubspaceBroken
from app.training.zero import full_master, full_weight, put_master

TOLERANCE = 1e-5
"""Largest share of a matrix's norm that may have leaked into the kept directions of its fp32 master."""
TOLERANCES = {torch.float32: TOLERANCE, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@dataclass(frozen=True)
class Projector:
    """Onto the complement of kept directions, from whichever basis is the smaller: theirs or the complement's.

    ``basis``: (dim, m), orthonormal columns; ``kept``: whether they span what is kept, or what is free.
    """

    basis: Tensor
    kept: bool

    @classmethod
    def of(cls, vectors: Tensor, num_kept: int) -> Self:
        """From orthonormal columns (dim, m <= dim) that begin with those to keep."""
        dim, num = vectors.shape
        kept = num < dim or num_kept <= dim - num_kept
        return cls((vectors[:, :num_kept] if kept else vectors[:, num_kept:]).contiguous(), kept)

    def left(self, matrix: Tensor) -> Tensor:
        """P X, for X (dim, n)."""
        basis = self._basis(matrix.dtype)
        part = basis @ (basis.T @ matrix)
        return matrix - part if self.kept else part

    def right(self, matrix: Tensor) -> Tensor:
        """X P, for X (n, dim)."""
        return self.left(matrix.T).T

    def between(self, matrix: Tensor, other: "Projector") -> Tensor:
        """P X R, for X (dim, n) and the other's R; the products run through the narrow side of a basis of what is free.

        Floating-point operations are 4 f dim n where one of the two has such a basis of f columns.
        """
        if other.kept:
            return other.right(self.left(matrix)) if self.kept else other.between(matrix.T, self).T
        basis = other._basis(matrix.dtype)
        return self.left(matrix @ basis) @ basis.T

    def _basis(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._bases:
            self._bases[dtype] = self.basis.to(dtype)
        return self._bases[dtype]

    @cached_property
    def _bases(self) -> dict[torch.dtype, Tensor]:
        return {self.basis.dtype: self.basis}


@dataclass(frozen=True)
class Subspace:
    """Where one weight may go: its start (out, in), and the projectors of its two sides."""

    start: Tensor
    out: Projector
    into: Projector
    num_kept: int

    @classmethod
    def of(cls, weight: Tensor, *, num_kept: int) -> Self:
        """Split a weight (out, in) by its singular value decomposition, in float64."""
        left, _, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
        out, into = (Projector.of(each.float(), num_kept) for each in (left, right.T))
        return cls(weight.detach().clone(), out, into, num_kept)

    def free(self, change: Tensor) -> Tensor:
        """The part of a change or gradient (out, in) that touches no kept direction."""
        return self.out.between(change, self.into)

    def nearest(self, weight: Tensor) -> Tensor:
        """The weight in the subspace that is nearest to an fp32 one."""
        start = self.start.float()
        return start + self.free(weight - start)

    def leak(self, weight: Tensor) -> float:
        """How far |U_h^T W - S_h V_h| and |W V_h^T - U_h S_h| are off, the worse of them, as a share of |W0|."""
        start = self.start.float()
        change = weight.float() - start
        worst = max((change - kept).norm() for kept in (self.out.left(change), self.into.right(change)))
        return float(worst / start.norm().clamp_min(torch.finfo(torch.float32).tiny))


def num_kept(shape: torch.Size, unfreeze_rank_ratio: float) -> int:
    """Directions of a matrix that are kept: floor(min(N, M) (1 - ratio))."""
    return int(min(shape) * (1 - unfreeze_rank_ratio) + 1e-9)


def chosen_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of the linear layers inside the model's numbered blocks by name; heads and poolers stand outside."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, its weight transposed: all here is symmetric

    found = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear | Conv1D)}
    inside = {name: each for name, each in found.items() if any(part.isdigit() for part in name.split("."))}
    return {f"{name}.weight": cast("nn.Parameter", each.weight) for name, each in inside.items()}


class Osft:
    """The subspaces of a model's weights, held through training."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        ratios: Mapping[str, float] | float,
        *,
        gradient_dtype: torch.dtype | None = None,
    ) -> None:
        """Split the weights, and project their gradients from now on.

        Args:
            parameters: weights by name, before DeepSpeed takes them.
            ratios: share of the directions that learns (``unfreeze_rank_ratio``), one for all, or by name.
            gradient_dtype: in which gradients are projected, their own by default; what a short type leaves in the
                kept directions, the projection after the step takes out.
        """
        self._parameters = dict(parameters)
        self.subspaces = {
            name: Subspace.of(weight, num_kept=num_kept(weight.shape, _ratio(ratios, name)))
            for name, weight in self._parameters.items()
        }
        self._hooks = [
            parameter.register_hook(self._hook(self.subspaces[name], gradient_dtype))  # type: ignore[no-untyped-call]
            for name, parameter in self._parameters.items()
        ]

    def close(self) -> None:
        """Project gradients no longer; the weights stay as they are, free to be split anew."""
        for hook in self._hooks:
            hook.remove()

    @staticmethod
    def _hook(space: Subspace, dtype: torch.dtype | None) -> Any:
        def free(gradient: Tensor) -> Tensor:
            return space.free(gradient.to(dtype or gradient.dtype)).to(gradient.dtype)

        return free

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring masters and weights back into their subspaces; every worker calls it after every optimiser's step."""
        for name, parameter in self._parameters.items():
            space = self.subspaces[name]
            if space.num_kept:
                put_master(parameter, space.nearest(full_master(parameter)))

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """The invariants: the worst leak of masters and of weights, for a checkpoint; every worker calls it.

        Raises:
            SubspaceBroken: one is beyond its tolerance, or is no number.
        """
        worst = {"master": 0.0, "weight": 0.0}
        for name, parameter in self._parameters.items():
            weight = full_weight(parameter)
            for part, value, limit in (
                ("master", full_master(parameter), TOLERANCE),
                ("weight", weight, TOLERANCES[weight.dtype]),
            ):
                leak = self.subspaces[name].leak(value)
                if not leak <= limit:
                    what = f"the {part} of {name} left its subspace by {leak:.2e} of its norm (at most {limit:.0e})"
                    raise SubspaceBroken(f"{what}: nothing of this run may be used; go on from an earlier checkpoint")
                worst[part] = max(worst[part], leak)
        return {f"leak_{part}": leak for part, leak in worst.items()}


def _ratio(ratios: Mapping[str, float] | float, name: str) -> float:
    return ratios[name] if isinstance(ratios, Mapping) else ratios


@torch.no_grad()
def importances(
    model: nn.Module, blocks: Mapping[str, nn.Module], batches: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Mean cosine of what goes into a block and what comes out of it, by the block's name, their mean made 1.

    The paper's measure: a block that hardly turns its input carries on what came before, and keeps more of its rank.

    Args:
        batches: keyword arguments for ``model``, a batch each; hidden states are (rows, tokens, dim).
    """
    sums, counts = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 0)

    def watch(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            after = made[0] if isinstance(made, tuple) else made
            cosines = nn.functional.cosine_similarity(given[0].float(), after.float(), dim=-1)
            sums[name] += float(cosines.sum())
            counts[name] += cosines.numel()

        return hook

    handles = [block.register_forward_hook(watch(name)) for name, block in blocks.items()]
    try:
        for batch in batches:
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    means = {name: sums[name] / max(counts[name], 1) for name in blocks}
    level = sum(means.values()) / len(means)
    return {name: mean / level for name, mean in means.items()}


def adaptive_ratio(importance: float, *, low: float, high: float) -> float:
    """Share of a layer's directions that learns: what is kept is low + importance (high - low), within 0 and 1."""
    return 1.0 - min(1.0, max(0.0, low + importance * (high - low)))


def adaptive_ratios(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], *, low: float, high: float
) -> dict[str, float]:
    """The share of directions that learns of every chosen weight, by the importance of its block.

    Args:
        batches: what ``model`` is called with, a few batches of the task to come, the same on every worker.
        low, high: share of the directions that a block of importance 0, and of 1, keeps; 0.1 and 0.8 in the paper.
    """
    names = {name: block_of(name) for name in chosen_weights(model)}
    found = importances(model, {block: model.get_submodule(block) for block in set(names.values())}, batches)
    return {name: adaptive_ratio(found[block], low=low, high=high) for name, block in names.items()}


def block_of(name: str) -> str:
    """Name of the numbered block that a weight stands in."""
    parts = name.split(".")
    return ".".join(parts[: next(place for place, part in enumerate(parts) if part.isdigit()) + 1])
