"""What a check says: a light, a figure, a threshold and a reason."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Light = Literal["green", "amber", "red", "pending"]
SEVERITY: dict[Light, int] = {"pending": 0, "green": 1, "amber": 2, "red": 3}


@dataclass(frozen=True)
class Finding:
    """A check's judgement. ``pending``: it can only be judged at promotion and does not weigh in the verdict."""

    light: Light
    reason: str
    figure: float | None = None
    threshold: float | None = None
    inputs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "inputs": list(self.inputs)}


def worst(findings: Iterable[Finding]) -> Light:
    """The verdict's light: that of the worst check; red when nothing was judged at all."""
    lights = [finding.light for finding in findings if finding.light != "pending"]
    return max(lights, key=SEVERITY.__getitem__, default="red")


def against(low: float, value: float, threshold: float) -> Light:
    """Green when even the lower bound reaches the threshold, amber when only the estimate does, else red."""
    if low >= threshold:
        return "green"
    return "amber" if value >= threshold else "red"


def passes(holds: bool) -> Light:
    """Green or red, for a check that knows no amber."""
    return "green" if holds else "red"


def within(high: float, value: float, maximum: float) -> Light:
    """Green when even the upper bound stays below a ceiling, amber when only the estimate does, else red."""
    return against(-high, -value, -maximum)
