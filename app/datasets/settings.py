"""Settings of the datasets stage: what is looked for in rows, what is done about it, and how rows are divided."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from app.core.settings import Settings

MIB = 1 << 20
Share = Annotated[float, Field(ge=0, le=1)]
Action = Literal["report", "drop"]
SPLITS = ("train", "calibration", "heldout")


class ReadSettings(Settings):
    """What a file of rows may cost."""

    record_bytes: PositiveInt = 16 * MIB
    """Longest line of JSON or CSV; a longer one is a reject."""

    file_bytes: PositiveInt = 4096 * MIB
    """Largest file, unpacked; what is beyond is a reject."""

    yaml_bytes: PositiveInt = 8 * MIB
    """Largest YAML file."""


class SplitSettings(Settings):
    """How rows are divided. A row that came with a split keeps it."""

    seed: int = 0
    """Seed of the division; it depends on this and the row's content or document alone."""

    train: Share = 0.9
    """Share of the rows that models learn from."""

    calibration: Share = 0.05
    """Share for calibration of a router."""

    heldout: Share = 0.05
    """Share that nothing is trained on."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError("datasets.splits: train, calibration and heldout must add up to 1")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """The shares by split, in the order of the divisions."""
        return {name: float(getattr(self, name)) for name in SPLITS}


class QualitySettings(Settings):
    """What is looked for in every row. An exact duplicate is always dropped: a row's id is its content."""

    near_duplicates: Action = "report"
    """What is done about a row that nearly repeats an earlier one."""

    similarity: Share = 0.8
    """From this Jaccard similarity of runs of words on, two rows are near-duplicates."""

    shingle_words: PositiveInt = 3
    """Length of these runs."""

    personal: Literal["report", "mask", "drop", "skip"] = "report"
    """What is done about personal data; ``mask`` puts ``<KIND>`` in its place."""

    personal_kinds: tuple[str, ...] = ()
    """Kinds that count; empty: every kind that the recognisers know, but for dates and web addresses."""

    personal_score: Share = 0.4
    """Least score of a recogniser."""

    encoding: Action = "report"
    """What is done about broken characters and text that was decoded wrongly."""

    contamination: Action = "drop"
    """What is done about rows that ask a suite's question or share a run of words with it."""

    contamination_words: PositiveInt = 13
    """Length of that run."""

    embedding: Literal["report", "drop", "skip"] = "report"
    """What is done about questions whose vectors are close to a suite's question."""

    embedding_similarity: Share = 0.95
    """From this cosine on, two questions are close."""

    label_issues: Literal["report", "drop", "skip"] = "report"
    """What is done about labels that the other rows speak against."""

    max_length_deviations: PositiveFloat = 4.0
    """A row whose log length is farther from the median, in scaled median deviations, is reported."""

    min_language_letters: NonNegativeInt = 20
    """Shorter texts are of no known language."""

    min_label_rows: PositiveInt = 10
    """A label with fewer rows is not judged."""


class DatasetSettings(Settings):
    """The datasets stage."""

    read: ReadSettings = ReadSettings()
    """What a file may cost."""

    splits: SplitSettings = SplitSettings()
    """How rows are divided."""

    quality: QualitySettings = QualitySettings()
    """What is looked for."""

    batch_size: PositiveInt = 256
    """Rows in one Ray Data batch."""

    num_workers: PositiveInt = 2
    """Actors that examine rows, at most."""

    worker_chars: PositiveInt = 8_000_000
    """Text that is worth a worker of its own; what is not worth two is examined in the process that reads it."""

    worker_memory_bytes: PositiveInt = 1024 * MIB
    """Memory that Ray reserves for an actor."""

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of a version; how many workers do the work does not."""
        return self.model_dump(mode="json", include={"read", "splits", "quality"})
