"""Settings of heads: of the recipe `head`, and of an encoder with a head per task."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from app.core.settings import Settings
from app.training.adapters import LoraSettings
from app.training.memory import DType

Task = Literal["classification", "multilabel", "token", "span", "score"]
HeadBase = Literal["frozen", "adapted", "trained"]
TaskBase = Literal["frozen", "adapted", "trained", "subspaces"]


class TaskSettings(Settings):
    """A head on a base model."""

    task: Task = "classification"
    """`classification`: a label for a text, or for two; `multilabel`: any number of labels; `token`: a tag for each
    word; `span`: where in a context the answer to a question stands, if it does; `score`: a number for a text, or for
    two."""

    base: TaskBase = "trained"
    """What becomes of the base: `frozen`, `adapted` (by `lora`, merged into it at the end), `trained` whole, or trained
    in `subspaces` (by `osft`)."""

    learning_rate: PositiveFloat | None = None
    """Highest learning rate of the head, which begins at random; by default that of the recipe."""

    max_answer_tokens: PositiveInt = 64
    """Longest answer that `span` finds in held-out rows."""

    overlap_tokens: NonNegativeInt = 64
    """Tokens that two windows of a context share in `span`, where `max_row_tokens` leaves no room for all of it."""

    def inputs(self) -> dict[str, Any]:
        """What decides the weights; windows count where there are some."""
        return self.model_dump(mode="json", exclude=set() if self.task == "span" else {"overlap_tokens"})


class HeadSettings(Settings):
    """An encoder with a classification head per task (:mod:`app.training.heads.per_task`)."""

    base: HeadBase = "trained"
    """What becomes of the encoder: `frozen`, `adapted` (low-rank adapters, merged when they are trained) or `trained`;
    the table of word embeddings stays as it is in any case."""

    learning_rate: PositiveFloat = 2e-4
    """Highest learning rate of the encoder, or of its adapters."""

    head_learning_rate: PositiveFloat = 4e-3
    """Highest learning rate of the heads."""

    num_epochs: PositiveInt = 3
    """Passes over the rows."""

    batch_size: PositiveInt = 32
    """New rows of a step."""

    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0; then it falls to 0 in a straight line."""

    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of the matrices."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""

    max_tokens: int = Field(default=128, ge=4, le=512)
    """A longer text is cut at its end."""

    dtype: DType = "bfloat16"
    """Type that the encoder computes in, where the processor is fast in it; its weights are float32 in any case."""

    seed: int = 0
    """Seed of the order of the rows, and of the adapters' start."""

    lora: LoraSettings = LoraSettings(rank=16, alpha=32)
    """The adapters of `adapted`."""

    @model_validator(mode="after")
    def _is_not_quantized(self) -> Self:
        if self.lora.quantize:
            raise ValueError("head.lora.quantize must be left out: an encoder's adapters are merged into its weights")
        return self
