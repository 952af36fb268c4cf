"""The escalation ladder: what each rung gives, what it costs, and where to stop.

Rungs from cheap to deep: prompt, retrieval, lora, full. Every rung is measured on the same suite.
Guarantees: a rung is green only when the lower end of its interval reaches the target; the recommendation is the first
green rung, and where there is none it says so. Not guaranteed: that costs on another machine are alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from app.core.statistics import Interval
from app.escalation.settings import LadderSettings

Light = Literal["green", "amber", "red"]
RUNGS = ("prompt", "retrieval", "lora", "full")


@dataclass(frozen=True)
class Measured:
    """A rung's measurements on the suite.

    ``token_f1`` and ``contains`` (share of answers that hold the accepted one, as a quotation does) are shown beside
    the quality and decide nothing.
    """

    rung: str
    quality: Interval
    token_f1: float
    contains: float
    cost_build_usd: float
    cost_per_1000_usd: float

    def __post_init__(self) -> None:
        if self.rung not in RUNGS:
            raise ValueError(f"{self.rung!r} is no rung of the ladder: use one of {', '.join(RUNGS)}")
        if self.cost_build_usd < 0 or self.cost_per_1000_usd < 0:
            raise ValueError(f"costs of rung {self.rung} are negative: give US dollars from 0 on")


@dataclass(frozen=True)
class Ladder:
    """All rungs with their lights, and the recommended one."""

    rungs: tuple[Measured, ...]
    lights: tuple[Light, ...]
    recommended: str
    target_met: bool
    recommendation: str

    def to_rows(self) -> list[dict[str, Any]]:
        """A row for each rung, as reports hold it."""
        return [
            {
                "rung": rung.rung,
                "light": light,
                "quality": rung.quality.to_dict(),
                "token_f1": rung.token_f1,
                "contains": rung.contains,
                "cost_build_usd": rung.cost_build_usd,
                "cost_per_1000_usd": rung.cost_per_1000_usd,
                "recommended": rung.rung == self.recommended,
            }
            for rung, light in zip(self.rungs, self.lights, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rungs": self.to_rows(),
            "recommended": self.recommended,
            "target_met": self.target_met,
            "recommendation": self.recommendation,
        }


def climb(measured: Iterable[Measured], *, settings: LadderSettings) -> Ladder:
    """Sort rungs from cheap to deep, light each, and recommend one.

    Raises:
        ValueError: no rung was measured, or one twice.
    """
    rungs = tuple(sorted(measured, key=lambda each: RUNGS.index(each.rung)))
    names = [each.rung for each in rungs]
    if not rungs or len(set(names)) < len(names):
        raise ValueError("the ladder needs each rung once, and at least one: measure prompt, retrieval, lora, full")
    lights = tuple(light_of(each.quality, settings=settings) for each in rungs)
    chosen, met = _choose(rungs, lights)
    return Ladder(rungs, lights, chosen.rung, met, _sentence(chosen, met=met, settings=settings))


def light_of(quality: Interval, *, settings: LadderSettings) -> Light:
    """Green: the whole interval reaches the target. Amber: part of it does, or the estimate is near. Red: neither."""
    if quality.low >= settings.target:
        return "green"
    reaches, near = quality.high >= settings.target, quality.value >= settings.target - settings.near
    return "amber" if reaches or near else "red"


def running_cost_usd(seconds_per_question: float, *, settings: LadderSettings, num_questions: int = 1000) -> float:
    """US dollars of answering questions on one machine, one after another."""
    return machine_cost_usd(seconds_per_question * num_questions, settings=settings)


def machine_cost_usd(duration_s: float, *, settings: LadderSettings) -> float:
    """US dollars of one machine for a time."""
    return duration_s / 3600 * settings.machine_usd_per_hour


def render(ladder: Ladder) -> Table:
    """The ladder as a table for the terminal; the recommended rung is marked."""
    table = Table(title="Escalation ladder", caption=ladder.recommendation)
    for heading in ("rung", "light", "quality", "token F1", "holds it", "to build", "1000 questions"):
        table.add_column(heading, justify="left" if heading in ("rung", "light") else "right")
    for row in ladder.to_rows():
        name = f"> {row['rung']}" if row["recommended"] else f"  {row['rung']}"
        costs = (f"${row['cost_build_usd']:.4f}", f"${row['cost_per_1000_usd']:.4f}")
        shares = (f"{row['token_f1']:.3f}", f"{row['contains']:.3f}")
        light = Text(row["light"], style={"amber": "yellow"}.get(row["light"], row["light"]))
        table.add_row(name, light, Interval(**row["quality"]).shown(), *shares, *costs)
    return table


def _choose(rungs: Sequence[Measured], lights: Sequence[Light]) -> tuple[Measured, bool]:
    """The first green rung, else the one of highest quality; a tie goes to the cheaper."""
    green = [rung for rung, light in zip(rungs, lights, strict=True) if light == "green"]
    if green:
        return green[0], True
    return max(rungs, key=lambda each: each.quality.value), False


def _sentence(chosen: Measured, *, met: bool, settings: LadderSettings) -> str:
    shown = f"{chosen.quality.shown()} {settings.metric}"
    if met:
        return f"{chosen.rung}: first rung to meet the target of {settings.target:.2f} ({shown}); stop here"
    return f"{chosen.rung}: best of the rungs ({shown}), but none surely meets the target of {settings.target:.2f}"
