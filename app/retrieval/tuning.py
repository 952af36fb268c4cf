"""What each worker of a tuning does: the encoder's steps, then the re-ranker's; save, report. Knows no Ray.

Encoder: that of questions alone, chunks keep the vectors of the index (query-side fine-tuning: Lee et al., Learning
Dense Representations of Phrases at Scale, ACL 2021), so that every step has all chunks for negatives in
MultipleNegativesRankingLoss of sentence-transformers (Henderson et al. 2017). Re-ranker: from the encoder's own
weights, the softmax over a chunk that answers and hard negatives (Cao et al., ListNet, 2007, with one relevant text).
Word vectors stay.

Guarantees: the same examples, base, seed and number of workers give the same steps on the same rows, also when the run
was cut off and taken up from a checkpoint; every worker reports as often as the others. Not guaranteed: equal weights
on machines that round differently. Only workers import this (torch, transformers, sentence-transformers).
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from app.inference.bert import read_weights
from app.inference.encoder import cut_batches, load_tokenizer
from app.inference.processor import computes_bf16
from app.inference.reranker import Pairs
from app.retrieval.bank import Bank
from app.retrieval.examples import Example, Examples, batches
from app.retrieval.tuning_plan import ENCODER, RERANKER, STATE_FILE, SUMMARY_FILE, TunePlan, append_line, read_plan

MICRO_TOKENS = 1536
MICRO_QUESTIONS = 4
WARM_SHARE, MAX_NORM = 0.1, 1.0
PROGRESS_EVERY_S = 2.0
Report = Callable[[Mapping[str, Any], Path | None], None]


@dataclass
class Progress:
    """How far a run is; goes into every checkpoint."""

    step: int = 0
    duration_s: float = 0.0
    curve: list[dict[str, float | str]] = field(default_factory=list)


@dataclass
class Stage:
    """A model that is trained, and its steps."""

    name: str
    model: Any
    steps: list[list[Example]]
    learning_rate: float
    backward: Callable[[Sequence[Example], float], float]
    """Adds gradients of the mean loss over these examples, times a share; returns that mean, times the share."""


def run_worker(folder: Path, *, rank: int, num_workers: int, restore_from: Path | None, report: Report) -> None:
    """Train from the plan in ``folder`` to the last step, reporting a checkpoint folder now and then."""
    plan = read_plan(folder)
    torch.set_num_threads(plan.settings.num_threads)
    torch.manual_seed(plan.settings.seed)
    _keep_memory()
    stages = make_stages(plan, Examples.of(folder), Bank.of(folder))
    total = sum(len(stage.steps) for stage in stages)
    due = {
        math.ceil(total * part / plan.settings.num_checkpoints) for part in range(1, plan.settings.num_checkpoints + 1)
    }
    progress, optimizer_state = restore(stages, restore_from)
    watch = Watch(folder, progress, total) if rank == 0 else None
    before = 0
    for stage in stages:
        optimizer = make_optimizer(stage)
        if optimizer_state and before < progress.step < before + len(stage.steps):
            optimizer.load_state_dict(optimizer_state)
        while progress.step < before + len(stage.steps):
            loss = train_step(stage, optimizer, progress, progress.step - before, rank=rank, num_workers=num_workers)
            if watch:
                watch.after_step(stage.name, loss)
            if progress.step in due:
                save(stages, optimizer, progress, last=progress.step == total, rank=rank, report=report)
        before += len(stage.steps)


def make_stages(plan: TunePlan, examples: Examples, bank: Bank) -> list[Stage]:
    """Encoder and re-ranker as they begin."""
    settings = plan.settings
    encoder = EncoderTask(plan, bank)
    given: dict[str, Any] = {"seed": settings.seed, "examples": examples.train}
    stages = [
        Stage(
            ENCODER,
            encoder.model,
            batches(size=settings.encoder_batch, epochs=settings.encoder_epochs, apart=True, **given),
            settings.encoder_learning_rate,
            encoder.backward,
        )
    ]
    if settings.reranker_epochs:
        reranker = RerankerTask(plan, examples)
        steps = batches(size=settings.reranker_batch, epochs=settings.reranker_epochs, apart=False, **given)
        stages.append(Stage(RERANKER, reranker.model, steps, settings.reranker_learning_rate, reranker.backward))
    return stages


class EncoderTask:
    """The loss of the encoder of questions."""

    def __init__(self, plan: TunePlan, bank: Bank) -> None:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from transformers import BertModel

        self._chunks, self._rows = torch.tensor(bank.vectors), torch.tensor(bank.rows)
        self._tokenizer = load_tokenizer(plan.base_folder)
        self._tokenizer.enable_truncation(max_length=plan.settings.max_tokens)
        self.model = BertModel(bert_config(plan.base_folder), add_pooling_layer=False)
        load_weights(self.model, read_weights(plan.base_folder))
        self._loss = MultipleNegativesRankingLoss(self.model)

    def backward(self, batch: Sequence[Example], share: float) -> float:
        """See Stage; negatives are all windows of chunks that answer no question of the batch."""
        asked = self._vectors([each.question for each in batch])
        answers = torch.stack([self._best(vector, each.gold[0]) for vector, each in zip(asked, batch, strict=True)])
        gold = torch.tensor(sorted({row for each in batch for row in each.gold}))
        others = self._chunks[~torch.isin(self._rows, gold)]
        loss = share * self._loss.compute_loss_from_embeddings([asked, answers, others], torch.arange(len(batch)))
        torch.autograd.backward(loss)
        return float(loss.item())

    def _best(self, asked: Tensor, row: int) -> Tensor:
        """The vector of the window of a chunk that is nearest to a question."""
        windows = self._chunks[self._rows == row]
        return windows[(windows @ asked.detach()).argmax()]

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        coded = [item.ids for item in self._tokenizer.encode_batch(list(texts))]
        parts: list[Tensor] = []
        order: list[int] = []
        for places in cut_batches([len(ids) for ids in coded], max_texts=64, max_tokens=MICRO_TOKENS):
            ids, mask = padded([coded[place] for place in places])
            with autocast():
                hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            parts.append(torch.nn.functional.normalize(mean, dim=1))
            order += places
        return torch.cat(parts)[inverse(order)]


class RerankerTask:
    """The re-ranker's loss."""

    def __init__(self, plan: TunePlan, examples: Examples) -> None:
        from transformers import BertForSequenceClassification

        self._texts, self._num = examples.read, plan.settings.reranker_negatives
        self._pairs = Pairs(load_tokenizer(plan.base_folder), max_tokens=plan.settings.max_tokens)
        torch.manual_seed(plan.settings.seed)
        self.model = BertForSequenceClassification(bert_config(plan.base_folder, num_labels=1))
        load_weights(self.model.bert, read_weights(plan.base_folder))

    def backward(self, batch: Sequence[Example], share: float) -> float:
        """See Stage; some questions at a time, so that memory stays small."""
        total = 0.0
        for start in range(0, len(batch), MICRO_QUESTIONS):
            part = [each for each in batch[start : start + MICRO_QUESTIONS] if each.negatives]
            if part:
                lists = self._scores(part)
                losses = [-torch.log_softmax(scores, 0)[0] for scores in lists]
                loss = share * torch.stack(losses).sum() / len(batch)
                torch.autograd.backward(loss)
                total += float(loss.item())
        return total

    def _scores(self, batch: Sequence[Example]) -> Sequence[Tensor]:
        pairs: list[list[int]] = []
        starts: list[int] = []
        sizes: list[int] = []
        for each in batch:
            rows = [each.gold[0], *each.negatives[: self._num]]
            asked = self._pairs.question(each.question)
            pairs += [self._pairs.joined(asked, ids) for ids in self._pairs.texts([self._texts[row] for row in rows])]
            starts += [len(asked)] * len(rows)
            sizes.append(len(rows))
        parts: list[Tensor] = []
        order: list[int] = []
        for places in cut_batches([len(pair) for pair in pairs], max_texts=64, max_tokens=MICRO_TOKENS):
            ids, mask = padded([pairs[place] for place in places])
            second = (torch.arange(ids.shape[1]) >= torch.tensor([starts[place] for place in places])[:, None]).long()
            with autocast():
                logits = self.model(input_ids=ids, attention_mask=mask, token_type_ids=second * mask).logits
            parts.append(logits[:, 0].float())
            order += places
        return list(torch.split(torch.cat(parts)[inverse(order)], sizes))


def bert_config(folder: Path, *, num_labels: int | None = None) -> Any:
    """A base's configuration for training: plain attention (its backward pass is the faster here), no dropout."""
    from transformers import BertConfig

    config = BertConfig.from_json_file(folder / "config.json")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config._attn_implementation = "eager"
    if num_labels is not None:
        config.num_labels = num_labels
    return config


def load_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Take over the weights that a model and a base share; word vectors and their like are kept as they are."""
    missing = model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False).missing_keys
    assert all(name.startswith("pooler.") for name in missing), missing
    for parameter in model.embeddings.parameters():
        parameter.requires_grad_(False)
    model.train()


def padded(coded: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids (n, length) and their mask, 1 where a token stands."""
    longest = max(map(len, coded))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in coded])
    return ids, (torch.arange(longest) < torch.tensor([len(row) for row in coded])[:, None]).long()


def inverse(order: Sequence[int]) -> Tensor:
    """Where each place of a permutation went."""
    return torch.argsort(torch.tensor(order))


def autocast() -> Any:
    """Matrix products in bf16 where the processor has them; weights stay float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=computes_bf16())


def make_optimizer(stage: Stage) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors do not."""
    trained = [parameter for parameter in stage.model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.learning_rate, fused=True)


def train_step(
    stage: Stage, optimizer: torch.optim.AdamW, progress: Progress, number: int, *, rank: int, num_workers: int
) -> float:
    """One step of a stage on this worker's part of its batch; returns its part of the mean loss."""
    started_s = time.perf_counter()
    total, batch = len(stage.steps), stage.steps[number]
    rate = min(1.0, (number + 1) / max(1.0, WARM_SHARE * total)) * (total - number) / total
    for group in optimizer.param_groups:
        group["lr"] = stage.learning_rate * rate
    mine = batch[rank::num_workers]
    loss = stage.backward(mine, len(mine) / len(batch)) if mine else 0.0
    share_gradients(optimizer, num_workers=num_workers)
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], MAX_NORM)
    optimizer.step()
    optimizer.zero_grad()
    progress.step += 1
    progress.duration_s += time.perf_counter() - started_s
    return loss * num_workers


def share_gradients(optimizer: torch.optim.AdamW, *, num_workers: int) -> None:
    """Sum gradients over the workers."""
    if num_workers == 1:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def save(
    stages: Sequence[Stage],
    optimizer: torch.optim.AdamW,
    progress: Progress,
    *,
    last: bool,
    rank: int,
    report: Report,
) -> None:
    """Report a checkpoint by the first worker, which has all of it; the last one carries the tuned weights."""
    figures = {"step": progress.step, "duration_s": progress.duration_s}
    if rank:
        report(figures, None)
        return
    with tempfile.TemporaryDirectory(prefix="signalbox-checkpoint-") as name:
        folder = Path(name)
        if last:
            for stage in stages:
                save_file(_plain(stage.model.state_dict()), folder / f"{stage.name}.safetensors")
            (folder / SUMMARY_FILE).write_text(json.dumps(vars(progress)))
        else:
            models = {stage.name: stage.model.state_dict() for stage in stages}
            state = {"models": models, "optimizer": optimizer.state_dict(), "progress": vars(progress)}
            torch.save(state, folder / STATE_FILE)
        report(figures, folder)


def restore(stages: Sequence[Stage], folder: Path | None) -> tuple[Progress, dict[str, Any] | None]:
    """Take up the run at a checkpoint, or begin."""
    if folder is None:
        return Progress(), None
    if not (folder / STATE_FILE).exists():
        return Progress(**json.loads((folder / SUMMARY_FILE).read_text())), None
    state = torch.load(folder / STATE_FILE, weights_only=True)
    for stage in stages:
        stage.model.load_state_dict(state["models"][stage.name])
    return Progress(**state["progress"]), state["optimizer"]


class Watch:
    """The first worker's notes: the loss curve, and a line of progress every few seconds."""

    def __init__(self, folder: Path, progress: Progress, total: int) -> None:
        self._folder, self._progress, self._total = folder, progress, total
        self._noted_s = time.monotonic()
        append_line(folder, {"event": "start", "step": progress.step, "total": total, "pid": os.getpid()})

    def after_step(self, stage: str, loss: float) -> None:
        """Take down a step's loss."""
        self._progress.curve.append({"step": self._progress.step, "stage": stage, "loss": loss})
        if time.monotonic() - self._noted_s > PROGRESS_EVERY_S or self._progress.step == self._total:
            self._noted_s = time.monotonic()
            told = {"event": "step", "step": self._progress.step, "total": self._total}
            append_line(self._folder, {**told, "stage": stage, "loss": loss})


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in weights.items() if not name.endswith("position_ids")}


def _keep_memory() -> None:
    """Have glibc keep what a step frees for the next one; page faults took a quarter of the time."""
    import ctypes

    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the most there is
