"""The loops that benchmarks.training sets side by side, each measured in processes of its own.

All take the same steps on the same batches of the same model in bf16 with fp32 masters (in fp32 where the processor has
no products of bf16): ours by DeepSpeed, the others by autocast, as one would write them. Attention is computed alike
(``ATTENTION`` of :mod:`app.training.model`).
"""

import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from app.training.data import Batches, load_examples
from app.training.plan import EXAMPLES_FILE, Plan, read_plan

Figures = dict[str, float]


def measured(loop: str, folder: Path, *, num_workers: int = 1, num_skipped: int, on_gpu: bool = False) -> Figures:
    """Run a loop over the plan in a folder, in fresh processes, on CPUs or on a GPU each.

    Returns:
        ``tokens_per_s`` (no padding counted, over all workers), ``step_s`` (median), ``peak_memory_bytes`` (all workers
        together) and ``loss`` of the last step.
    """
    from torch import multiprocessing

    store = (folder / f"store-{time.monotonic_ns()}").as_uri()
    multiprocessing.spawn(_work, (loop, folder, num_workers, num_skipped, store, on_gpu), nprocs=num_workers)
    parts = [json.loads((folder / f"figures-{rank}.json").read_text()) for rank in range(num_workers)]
    return {**parts[0], "peak_memory_bytes": sum(part["peak_memory_bytes"] for part in parts)}


def _work(rank: int, loop: str, folder: Path, num_workers: int, num_skipped: int, store: str, on_gpu: bool) -> None:
    from app.training.extensions import prepare_environment

    prepare_environment(num_threads=1, on_gpu=on_gpu)
    import torch

    torch.set_num_threads(1)
    if on_gpu:
        torch.cuda.set_device(rank)
    plan = read_plan(folder)
    tokens, losses, seconds = LOOPS[loop](plan, folder, rank, num_workers, store)
    figures = _figures(tokens[num_skipped:], losses, seconds[num_skipped:])
    (folder / f"figures-{rank}.json").write_text(json.dumps(figures))


def _figures(tokens: Sequence[int], losses: Sequence[float], seconds: Sequence[float]) -> Figures:
    return {
        "tokens_per_s": sum(tokens) / sum(seconds),
        "step_s": sorted(seconds)[len(seconds) // 2],
        "peak_memory_bytes": _peak_bytes(),
        "loss": losses[-1],
    }


def _peak_bytes() -> int:
    """Of this process; on a GPU, what was allocated there."""
    from app.training.extensions import on_gpu

    if on_gpu():
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


Run = tuple[list[int], list[float], list[float]]
"""Of each step: its tokens, its loss, its duration in s."""


def ours(plan: Plan, folder: Path, rank: int, num_workers: int, store: str, *, shuffled: bool = False) -> Run:
    """The loop that Ray Train runs in every worker; ``shuffled``: on padded rows that nothing groups by length."""
    import torch

    from app.training.extensions import on_gpu, quieten
    from app.training.loop import Progress, make_batches, make_engine, train_step

    quieten()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(num_workers), "LOCAL_SIZE": str(num_workers)}
    backend = "nccl" if on_gpu() else "gloo"
    torch.distributed.init_process_group(backend, init_method=store, rank=rank, world_size=num_workers)
    batches = _shuffled(plan, folder) if shuffled else make_batches(plan, folder)
    engine, subspaces = make_engine(plan, batches, num_workers=num_workers)
    progress, losses, seconds = Progress(), [], []
    for _ in range(plan.settings.num_steps):
        started_s = time.perf_counter()
        step = (engine, subspaces, batches, plan.settings, progress)
        losses.append(train_step(*step, rank=rank, num_workers=num_workers))
        seconds.append(time.perf_counter() - started_s)
    tokens = [batches.num_tokens(step) for step in range(plan.settings.num_steps)]
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return tokens, losses, seconds


def _shuffled(plan: Plan, folder: Path) -> Batches:
    settings = plan.settings
    return Batches(
        load_examples(folder / EXAMPLES_FILE), batch_size=settings.batch_size, replay_share=0.0, noise=0.0,
        seed=settings.seed, vocabulary_size=plan.vocabulary_size, grouped=False,
    )  # fmt: skip


def plain(plan: Plan, folder: Path, rank: int, num_workers: int, store: str) -> Run:
    """A loop in PyTorch: autocast, AdamW, clipping."""
    import torch

    from app.training.extensions import number_type

    model, given, tokens = _model_and_batches(plan, folder)
    settings = plan.settings
    options = {"lr": settings.learning_rate, "betas": (0.9, 0.95), "weight_decay": settings.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    losses, seconds = [], []
    for batch in given:
        started_s = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=number_type(settings.dtype) == "bfloat16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started_s)
    return tokens, losses, seconds


def trainer(plan: Plan, folder: Path, rank: int, num_workers: int, store: str) -> Run:
    """The Trainer of Hugging Face's transformers, given the batches as they are."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from app.training.extensions import number_type, on_gpu

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(given)

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started_s = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started_s)

    model, given, tokens = _model_and_batches(plan, folder)
    seconds: list[float] = []
    settings = plan.settings
    options = TrainingArguments(
        output_dir=str(folder / "trainer"), use_cpu=not on_gpu(), bf16=number_type(settings.dtype) == "bfloat16",
        per_device_train_batch_size=1, max_steps=len(given),
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm,
        adam_beta2=0.95, lr_scheduler_type="constant", save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True,
    )  # fmt: skip
    made = InOrder(model, options, train_dataset=given, data_collator=lambda items: items[0], callbacks=[Clock()])
    return tokens, [made.train().training_loss], seconds


def _model_and_batches(plan: Plan, folder: Path) -> tuple[Any, list[dict[str, Any]], list[int]]:
    """The plan's new model, its batches as transformers takes them, and the tokens of each."""
    from app.training.loop import make_batches, tensors
    from app.training.start import make_model

    batches, pad = make_batches(plan, folder), plan.pad_token
    steps = range(plan.settings.num_steps)
    made = [tensors(batches.passes(step, rank=0, num_workers=1)[0]) for step in steps]
    given = [
        {"input_ids": each["input_ids"], "attention_mask": (each["input_ids"] != pad).long(), "labels": each["labels"]}
        for each in made
    ]
    return make_model(plan).train(), given, [batches.num_tokens(step) for step in steps]


LOOPS: dict[str, Callable[[Plan, Path, int, int, str], Run]] = {
    "ours": ours,
    "ours_shuffled": partial(ours, shuffled=True),
    "plain": plain,
    "trainer": trainer,
}
