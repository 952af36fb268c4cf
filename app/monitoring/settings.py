"""Settings of the monitor, explained field by field."""

from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from app.core.settings import Settings


class MonitorSettings(Settings):
    """How the request log is watched, and when drift starts a retraining."""

    reference_size: int = Field(default=200, ge=20)
    """Requests of a release that make its baseline: the first ones that it answered."""

    window_size: int = Field(default=50, ge=10)
    """Requests in a window; windows follow one another without overlap, an unfinished one waits."""

    num_components: PositiveInt = 8
    """Principal components of the question embeddings that are compared."""

    num_neighbours: PositiveInt = 3
    """Nearest baseline questions from which a question's novelty is measured."""

    false_alarm_rate: float = Field(default=0.001, gt=0, lt=0.5)
    """Chance that one signal of an unchanged window passes its threshold; sets the thresholds."""

    min_distance: NonNegativeFloat = 0.15
    """Least difference of two distributions (0 to 1) worth an alarm, however many requests prove it."""

    feedback_reference: int = Field(default=20, ge=10)
    """Ratings of a release, its first, that later ones are held against."""

    min_signals: int = Field(default=2, ge=1, le=6)
    """Signals past their thresholds that make a window an alarm."""

    period_s: PositiveFloat = 5.0
    """Seconds between two looks at the log."""

    settle_s: NonNegativeFloat = 2.0
    """Requests younger than this wait for the next look, as slower replicas may still write older ones."""

    lease_s: PositiveFloat = 30.0
    """A monitor that has not renewed its lease for so long may be replaced by another."""

    max_job_attempts: PositiveInt = 3
    """Times a trigger's retraining job is submitted when it ends without a verdict."""

    cooldown_windows: PositiveInt = 10
    """Windows to wait after a trigger whose retraining ended without a candidate, before an alarm starts another."""

    release: str = "assistant@production"
    """The release whose traffic is watched."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.reference_size < 2 * self.window_size:
            raise ValueError("monitoring.reference_size must be at least twice window_size")
        if self.num_neighbours >= self.reference_size or self.num_components >= self.reference_size:
            raise ValueError("monitoring.num_neighbours and num_components must be smaller than reference_size")
        if self.lease_s < 2 * self.period_s:
            raise ValueError("monitoring.lease_s must be at least twice period_s, or the lease lapses between looks")
        return self
