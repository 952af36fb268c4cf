"""Settings of the router and of its calibration."""

from pydantic import Field, PositiveInt

from app.core.settings import Settings


class RoutingSettings(Settings):
    """How sure a model must be before its answer goes out, and on how many rows that is learnt."""

    name: str = "router"
    """Name that the router's versions are published under."""

    target_precision: float = Field(default=0.9, gt=0, lt=1)
    """Share of a model's accepted answers that must be right on the calibration rows."""

    confidence: float = Field(default=0.9, ge=0.5, lt=1)
    """One-sided confidence at which the Wilson lower bound of that share must reach the target."""

    max_calibration_rows: PositiveInt = 300
    """Upper bound of the rows of split "calibration" that are asked; the first by row id, which is a hash."""

    num_folds: int = Field(default=5, ge=2)
    """Folds of the cross-fit: a row's probability comes from a fit that did not see the row."""

    top_k: PositiveInt = 4
    """Passages retrieved for a question."""

    max_new_tokens: PositiveInt = 32
    """Upper bound of an answer, in tokens."""

    batch_size: PositiveInt = 32
    """Questions answered in one batch."""

    num_threads: PositiveInt = 1
    """Threads of the text engine."""

    tolerance: float = Field(default=0.02, gt=0, lt=1)
    """Quality that may be lost on average against always asking the largest model; 0.02: two points of accuracy."""

    guarantee_confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Confidence at which no more than that is lost."""

    explore: float = Field(default=0.02, ge=0, le=0.5)
    """Share of calls that may be dealt out to the models by chance, as an audit needs them; the guarantee counts what
    they may lose, and no more than this share is ever dealt out."""

    min_forecast_rows: int = Field(default=200, ge=50)
    """Rows to learn from, half of those given, below which a router judges answers and forecasts nothing."""

    abstain: bool = True
    """Whether the documents are quoted where the judge trusts no model's answer; else the largest model's goes out."""
