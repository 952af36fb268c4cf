"""Settings of the training stage: the model's shape, the recipe, the workers.

Guarantees: what decides the weights is in ``ModelSettings`` and ``TrainSettings`` and goes into a model version's
inputs; ``WorkerSettings`` decides where and at what price, and of it only the number of workers that is asked for goes
there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from app.core.settings import Settings
from app.training.adapters import LoraSettings
from app.training.heads.settings import TaskSettings
from app.training.memory import DType, MemorySettings
from app.training.replay import ReplayBy
from app.training.workers import WorkerSettings

Recipe = Literal["cpt", "sft", "lora", "osft", "dpo", "head"]


class ModelSettings(Settings):
    """Shape of a model that is trained from a random start: a Llama, or whatever a Hugging Face configuration says."""

    hidden_size: PositiveInt = 192
    """Width of the residual stream."""

    num_layers: PositiveInt = 4
    """Transformer blocks."""

    num_heads: PositiveInt = 4
    """Attention heads; must divide `hidden_size`."""

    intermediate_size: PositiveInt = 512
    """Width of the feed-forward part."""

    max_context_tokens: PositiveInt = 512
    """Longest prompt and answer together."""

    vocabulary_size: int = Field(default=1536, ge=300)
    """Entries of the byte-level BPE tokenizer at most; 256 of them are the bytes, 4 the special tokens."""

    seed: int = 0
    """Seed of the random start."""

    config_file: Path | None = None
    """A Hugging Face `config.json`: its architecture and shape count, not those above. Vocabulary and special tokens
    are those of the tokenizer that is trained."""

    config: dict[str, Any] | None = None
    """The content of such a file; a model version's inputs hold it, and not the file's path."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 2:
            raise ValueError("model.num_heads must divide model.hidden_size into an even number of columns")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A configuration is stated only where there is one, so that what was trained before keeps its digest."""
        return {name: value for name, value in dump(self).items() if value is not None}


SMALL_MODEL = ModelSettings()
"""About 2 million parameters."""

LARGE_MODEL = ModelSettings(hidden_size=448, num_layers=4, num_heads=7, intermediate_size=1152)
"""About 10 million parameters."""


class OsftSettings(Settings):
    """Orthogonal subspace fine-tuning: what a matrix does most stays (Nayak et al., 2025, arXiv 2504.07097)."""

    unfreeze_rank_ratio: float = Field(default=0.3, ge=0, le=1)
    """Share of a matrix's singular directions that learns, the smallest ones; 0 freezes all, 1 is plain training."""

    adaptive: bool = False
    """Choose each block's share by what it does to its input on the task's first batches, as the paper does;
    `unfreeze_rank_ratio` does not count then."""

    keep_low: float = Field(default=0.1, ge=0, le=1)
    """Share of the directions that `adaptive` keeps in a block of no importance."""

    keep_high: float = Field(default=0.8, ge=0, le=1)
    """Share that it keeps in a block of mean importance."""

    train_others: bool = True
    """Train embeddings, norms and biases too, freely."""


class DpoSettings(Settings):
    """Direct preference optimisation: of two answers, the better one becomes likelier than the worse, measured from
    what the base gives them (Rafailov et al., 2023, arXiv 2305.18290)."""

    beta: PositiveFloat = 0.1
    """How close to the base the model stays: the larger, the closer."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs that may be the wrong way round (conservative DPO; Mitchell, 2023)."""

    sft_weight: NonNegativeFloat = 0.0
    """Weight of the better answer's own loss, a mean over its tokens, beside that of the pair: it keeps that answer
    from becoming less likely together with the worse one (Pang et al., 2024, arXiv 2404.19733)."""

    adapters: bool = False
    """Train adapters (`lora`), not the weights."""


class ExpandSettings(Settings):
    """More blocks in a base, copies that change nothing before they learn (Wu et al., 2024, arXiv 2401.02415)."""

    num_blocks: PositiveInt = 2
    """New blocks."""

    place: Literal["interleaved", "top"] = "interleaved"
    """Where they stand: each behind one of as many even groups of blocks, or all behind the last."""

    train_only_new: bool = True
    """Train the new blocks alone."""


class AttentionSettings(Settings):
    """Another pattern of attention in a base, where its architecture knows sliding windows."""

    sliding_window: PositiveInt
    """Tokens that a token attends to: itself and those before it."""

    full_every: NonNegativeInt = 0
    """Each so-manyth block attends to everything still; 0: none does. Only where blocks may differ."""


class NewTokenSettings(Settings):
    """Tokens for the words of a domain, added to a base's tokenizer and to its model."""

    num_tokens: PositiveInt = 256
    """New tokens at most."""

    min_count: int = Field(default=10, ge=2)
    """How often the two pieces of a new token must stand side by side in the data."""


class TrainSettings(Settings):
    """A recipe: `cpt` continues pretraining on chunks, `sft` fine-tunes on questions and answers, `lora` does so by
    adapters, `osft` in the directions that the base uses least, `dpo` learns from pairs of answers which is better,
    `head` learns to say something of a text."""

    recipe: Recipe = "sft"
    """What is trained, on what."""

    num_steps: PositiveInt = 450
    """Optimiser steps; a fixed number, so that a run ends where its repetition ends."""

    num_epochs: PositiveInt | None = None
    """Or so many passes over the new rows, whose number then decides the steps; a batch is no larger than the rows."""

    batch_size: PositiveInt = 64
    """Rows of one step, over all workers; in `dpo`, pairs."""

    learning_rate: PositiveFloat = 1.2e-3
    """Highest learning rate."""

    num_warmup_steps: NonNegativeInt = 50
    """Steps over which the learning rate rises from 0."""

    hold_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps at the highest learning rate, before it falls along a cosine."""

    final_share: float = Field(default=0.02, ge=0, le=1)
    """Where the learning rate ends, as a share of the highest."""

    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay of the matrices."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""

    prompt_noise: float = Field(default=0.0, ge=0, lt=1)
    """Share of a question's tokens that are replaced at random, anew in every step (not in `cpt` and `dpo`)."""

    replay_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of a batch that comes from what the base model was trained on already, when there is any."""

    replay_withdrawn: bool = False
    """Replay facts, too, that only older data state; right when the newest data hold nothing but what is new."""

    replay_rows: PositiveInt | None = None
    """Most rows that are remembered to be replayed; by default all are."""

    replay_by: ReplayBy = "reservoir"
    """Which these are: a uniform sample, or as many of each cluster of like questions."""

    block_tokens: PositiveInt = 64
    """Length of the blocks that `cpt` cuts chunks into."""

    max_row_tokens: PositiveInt = 256
    """A longer row of questions and answers is left out, and counted; a pair with either of its sides."""

    pack_tokens: PositiveInt | None = None
    """Lay the rows of a step end to end in sequences of at most so many tokens, without attending from one to another,
    and draw them whatever their length; by default rows of similar length share a step, and are padded."""

    max_tokens_per_worker: PositiveInt | None = None
    """Most tokens, padding counted, that a worker takes through the model at once; a step with more takes several
    passes, whose gradients add up to the same. Lower it when memory does not suffice."""

    dtype: DType = "auto"
    """Type of the weights and gradients; masters and optimiser state are float32 in any case. `auto` is bfloat16 on a
    GPU and on processors that multiply it, elsewhere float32: there bfloat16 takes a hundred times as long."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: what is divided among the workers (1: optimiser state, 2: gradients too, 3: weights)."""

    seed: int = 0
    """Seed of the order of the rows and of the noise."""

    num_checkpoints: PositiveInt = 4
    """Checkpoints over the run, at even distances; the last one carries the trained model."""

    lora: LoraSettings = LoraSettings()
    """The adapters of `lora`."""

    osft: OsftSettings = OsftSettings()
    """The subspaces of `osft`."""

    expand: ExpandSettings | None = None
    """Give the base more blocks first (`cpt` and `sft`)."""

    new_tokens: NewTokenSettings | None = None
    """Add frequent words of the data to the base's tokenizer first (`cpt` and `sft`)."""

    attention: AttentionSettings | None = None
    """Change what the base's blocks attend to first (`cpt` and `sft`)."""

    dpo: DpoSettings = DpoSettings()
    """How `dpo` compares."""

    head: TaskSettings = TaskSettings()
    """What `head` says, and what becomes of the base."""

    memory: MemorySettings = MemorySettings()
    """What is given for less memory."""

    workers: WorkerSettings = WorkerSettings()
    """The processes that train."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch_size % self.workers.num_workers:
            raise ValueError("train.batch_size must be a multiple of train.workers.num_workers")
        return self

    @model_validator(mode="after")
    def _workers_have_rows(self) -> Self:
        least, most = self.workers.range
        if most > self.batch_size:
            raise ValueError("train.workers.max_workers must not be over train.batch_size: each takes a row at least")
        if (self.workers.min_workers or least) > most:
            raise ValueError("train.workers.min_workers must not be over train.workers.max_workers")
        return self

    @model_validator(mode="after")
    def _masters_are_there(self) -> Self:
        if self.by_subspaces and self.zero_stage == 0:
            raise ValueError("train.zero_stage must be 1, 2 or 3 for osft: stage 0 keeps no masters to project")
        return self

    @model_validator(mode="after")
    def _memory_can_be_saved(self) -> Self:
        if fault := self.memory.fault(zero_stage=self.zero_stage):
            raise ValueError(fault)
        if self.by_subspaces and (self.memory.offload_optimizer or self.memory.offload_parameters):
            raise ValueError(
                "train.memory.offload_* must be left out for osft: masters are projected where it computes"
            )
        return self

    @model_validator(mode="after")
    def _adapters_can_be_merged(self) -> Self:
        if self.merges and self.zero_stage == 3:
            where = "train.head.base: adapted" if self.recipe == "head" else "train.lora.merge"
            raise ValueError(f"train.zero_stage must be 0, 1 or 2 for {where}: stage 3 has the weights in parts")
        if self.recipe == "head" and self.by_adapters and self.lora.quantize:
            raise ValueError("train.lora.quantize must be left out for head: its adapters are merged into the base")
        return self

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        longest = "block_tokens" if self.recipe == "cpt" else "max_row_tokens"
        least = getattr(self, longest) * self.sides
        for name in ("pack_tokens", "max_tokens_per_worker"):
            if (getattr(self, name) or least) < least:
                times = "twice " if self.sides > 1 else ""
                raise ValueError(
                    f"train.{name} must be at least {times}train.{longest} ({least}), or a row has no place"
                )
        if self.max_tokens_per_worker and (self.pack_tokens or 0) > self.max_tokens_per_worker:
            raise ValueError("train.max_tokens_per_worker must be at least train.pack_tokens")
        return self

    @model_validator(mode="after")
    def _pairs_are_padded(self) -> Self:
        if self.recipe == "dpo" and self.pack_tokens:
            raise ValueError("train.pack_tokens must be left out for dpo: the two sides of a pair are set side by side")
        if self.recipe == "head" and self.pack_tokens:
            raise ValueError("train.pack_tokens must be left out for head: a row's text stands alone")
        return self

    @model_validator(mode="after")
    def _quantized_is_whole(self) -> Self:
        if self.by_adapters and self.lora.quantize and self.zero_stage == 3:
            raise ValueError("train.zero_stage must be 0, 1 or 2 with train.lora.quantize: 4-bit weights stay whole")
        return self

    @model_validator(mode="after")
    def _whole_models_are_changed(self) -> Self:
        for name in ("expand", "attention", "new_tokens"):
            if getattr(self, name) and self.recipe not in ("cpt", "sft"):
                raise ValueError(f"train.{name} must be left out for {self.recipe}: choose cpt or sft")
        return self

    @property
    def sides(self) -> int:
        """Examples that make one row: 2 in `dpo`, else 1."""
        return 2 if self.recipe == "dpo" else 1

    @property
    def by_adapters(self) -> bool:
        """Whether adapters are what is trained."""
        adapted = self.recipe == "head" and self.head.base == "adapted"
        return adapted or self.recipe == "lora" or (self.recipe == "dpo" and self.dpo.adapters)

    @property
    def merges(self) -> bool:
        """Whether adapters end as a part of the base's weights."""
        return self.by_adapters and (self.recipe == "head" or self.lora.merge)

    @property
    def by_subspaces(self) -> bool:
        """Whether matrices learn in the directions alone that the base uses least."""
        return self.recipe == "osft" or (self.recipe == "head" and self.head.base == "subspaces")

    def inputs(self) -> dict[str, object]:
        """What decides the weights, as JSON."""
        stated = self.model_dump(mode="json", exclude={"workers", *_unstated(self, LATER)})
        stated["head"] = self.head.inputs()
        stated["lora"] = self.lora.model_dump(mode="json", exclude=_unstated(self.lora, LATER_LORA))
        for name, counts in (
            ("osft", self.by_subspaces),
            ("dpo", self.recipe == "dpo"),
            ("head", self.recipe == "head"),
        ):
            if not counts:
                del stated[name]
        return {**stated, "num_workers": self.workers.num_workers}


LATER = (
    *("expand", "attention", "new_tokens", "num_epochs", "pack_tokens", "max_tokens_per_worker"),
    *("replay_rows", "replay_by", "memory"),
)
LATER_LORA = ("merge", "target_modules", "use_dora", "use_rslora", "quantize")
"""Settings that came later: they count where they are not at their default, so that earlier runs stay what they are."""


def _unstated(settings: Settings, names: Sequence[str]) -> set[str]:
    fields = type(settings).model_fields
    return {name for name in names if getattr(settings, name) == fields[name].default}


class ContinualSettings(Settings):
    """Tasks learned one after another."""

    osft: bool = False
    """Learn each task in the directions that the encoder uses least, as it is when the task begins."""

    keep_first: float = Field(default=0.5, ge=0, le=1)
    """Share of a matrix's singular directions that `osft` keeps in the first task."""

    keep_last: float = Field(default=0.9, ge=0, le=1)
    """Share that it keeps in the last; in between it rises in a straight line."""

    replay_share: float = Field(default=0.0, ge=0, lt=1)
    """Replayed rows of a step, as a share of all its rows; 0 replays nothing."""

    keep_weight: NonNegativeFloat = 0.5
    """Weight of what the model said of a replayed row when its task had been learned, beside the row's label (arXiv
    2004.07211); 0: the label alone."""

    replay_rows: PositiveInt = 800
    """Rows of earlier tasks that are remembered, a uniform sample of all that were seen."""

    rewarm_share: PositiveFloat = 1.0
    """Highest learning rate of the encoder in each later task, as a share of the first task's."""

    refit_heads: bool = False
    """Keep with every row what all heads said of it, and fit the heads anew after each task, to the labels of its own
    and to what was said by those of the tasks before."""

    @model_validator(mode="after")
    def _kept_grows(self) -> Self:
        if self.keep_last < self.keep_first:
            raise ValueError("continual.keep_last must not be under continual.keep_first: what is kept only grows")
        return self
