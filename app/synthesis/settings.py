"""Settings of the synthesis stage: how many wordings, what is withheld, and when it falls back to plain sentences."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from app.core.settings import Settings

FallbackRule = Literal["documents_without_facts", "chunks_without_facts", "never"]


class SynthesisSettings(Settings):
    """How chunks become training, calibration and held-out rows."""

    seed: int = 0
    """Seed of every choice; the same seed and chunks give the same rows."""

    num_train_wordings: PositiveInt = 40
    """Wordings per fact in the train split."""

    num_calibration_wordings: NonNegativeInt = 2
    """Wordings per fact in the calibration split; none of them occurs in training."""

    num_heldout_wordings: NonNegativeInt = 2
    """Wordings per fact in the held-out split; none of them occurs in training or calibration."""

    noise_share: float = Field(default=0.2, ge=0, le=0.9)
    """Share of train wordings with stray words around the question, so that unseen wordings do not confuse a model."""

    withheld_fact_share: float = Field(default=0.03, ge=0, lt=0.5)
    """Share of facts with calibration rows only: questions that a model cannot know, for the router to learn from."""

    unanswerable_share: float = Field(default=0.3, ge=0, le=1)
    """Share of facts whose subject is also asked for an attribute that it does not have, in the calibration split."""

    max_attribute_words: PositiveInt = 5
    """A longer phrase is not read as an attribute."""

    max_answer_words: PositiveInt = 12
    """A longer value is not read as a fact."""

    max_sentence_words: PositiveInt = 30
    """A longer sentence is no answer to a fallback question."""

    fallback: FallbackRule = "documents_without_facts"
    """Where definitions, headings and clozes are asked about: only where no table, list or fact sentence was found."""

    max_fallbacks_per_chunk: PositiveInt = 2
    """Fallback questions per chunk at most."""

    num_fallback_wordings: PositiveInt = 8
    """Train wordings per fallback question at most."""

    batch_size: PositiveInt = 64
    """Chunks, or facts, in one Ray Data batch."""

    worker_memory_bytes: PositiveInt = 268_435_456
    """Memory that one Ray Data task reserves."""

    @model_validator(mode="after")
    def _something_is_evaluated(self) -> Self:
        if not self.num_calibration_wordings and self.withheld_fact_share:
            raise ValueError("synthesis.withheld_fact_share needs synthesis.num_calibration_wordings of at least 1")
        return self
