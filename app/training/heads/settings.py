"""What the recipe `head` trains: which kind of head, and what becomes of the base below it."""

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from app.core.settings import Settings

Task = Literal["classification", "multilabel", "token", "span", "score"]
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
