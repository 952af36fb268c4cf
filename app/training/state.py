"""What a run goes on from: masters and Adam's moments by parameter, in the pieces that each worker holds.

A worker writes what it holds, without a word to the others; whoever goes on reads all pieces and takes those that it
holds now. So a run that two workers began goes on with one, or with four, at the same or another ZeRO stage. What does
not learn is not written: it comes from the base again.

Guarantees: with as many workers as before, what is read is what was written, bit for bit; a checkpoint with a piece
missing is refused. Source of the idea: DeepSpeed's universal checkpoint (Lian et al., arXiv 2406.18820), which converts
afterwards.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.training.errors import CheckpointBroken
from app.training.zero import Piece, base_optimizer, pieces, put_weight, shape_of, size_of, trained_parameters

PATTERN = "state-*-of-*.pt"


def save_state(engine: Any, folder: Path, *, rank: int, num_workers: int) -> None:
    """Write this worker's pieces."""
    held = {
        piece.name: {"start": piece.start, **piece.tensors}
        for piece in pieces(engine)
        if rank == 0 or not piece.is_whole
    }
    state = {"pieces": held, "steps": _steps(engine)}
    torch.save(state, folder / f"state-{rank:05d}-of-{num_workers:05d}.pt")


def load_state(engine: Any, folder: Path) -> None:
    """Take up the state of a checkpoint, whoever wrote it; every worker calls it.

    Raises:
        CheckpointBroken: a piece is missing.
    """
    files = sorted(folder.glob(PATTERN))
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise CheckpointBroken(f"{folder} lacks parts of its state: take the run up from an earlier checkpoint")
    parts = [torch.load(file, weights_only=True, mmap=True) for file in files]
    _set_steps(engine, parts[0]["steps"])
    mine = {piece.name: piece for piece in pieces(engine)}
    for name, parameter in trained_parameters(engine):
        whole = _gathered(name, size_of(parameter), [part["pieces"][name] for part in parts if name in part["pieces"]])
        if name in mine:
            _put(mine[name], whole)
        put_weight(parameter, whole["master"].view(shape_of(parameter)))


def _gathered(name: str, size: int, found: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The whole master and moments of a parameter, flat."""
    kinds = [kind for kind in found[0] if kind != "start"] if found else []
    whole = {kind: torch.empty(size) for kind in kinds}
    filled = 0
    for piece in found:
        num = min(piece["master"].numel(), size - piece["start"])
        for kind in kinds:
            whole[kind][piece["start"] : piece["start"] + num] = piece[kind].flatten()[:num]
        filled += num
    if filled != size:
        raise CheckpointBroken(f"the state of {name} is not whole: take the run up from an earlier checkpoint")
    return whole


def _put(piece: Piece, whole: dict[str, Tensor]) -> None:
    for kind, into in piece.tensors.items():
        into.view(-1).copy_(whole[kind][piece.start : piece.start + into.numel()])


def _steps(engine: Any) -> float:
    """How many steps Adam counts."""
    return max((float(state["step"]) for state in base_optimizer(engine).state.values()), default=0.0)


def _set_steps(engine: Any, steps: float) -> None:
    for _ in pieces(engine):
        break  # makes the state where there is none yet
    for state in base_optimizer(engine).state.values():
        state["step"].fill_(steps)
