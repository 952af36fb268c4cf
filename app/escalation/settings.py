"""Settings of the escalation ladder."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat

from app.core.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]


class LadderSettings(Settings):
    """When a rung is good enough, and what a machine costs."""

    metric: str = "exact_match"
    """The evaluations' metric that decides."""

    target: Share = 0.8
    """Quality to reach: the first rung that does so is where to stop."""

    near: Share = 0.05
    """A rung that misses the target by no more than this is amber, not red."""

    machine_usd_per_hour: NonNegativeFloat = 0.10
    """Price of the machine, by which seconds become dollars."""
