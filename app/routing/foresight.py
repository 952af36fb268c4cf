"""How much better the last model would answer: forecast from the request alone, then from each cheaper one's answer.

Guarantees: read from its files it gives the numbers that it gave when it was trained, with numpy alone. Not
guaranteed: that a forecast holds for requests of another kind than those that it was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

from app.core.errors import SignalboxError
from app.routing.quality import Forecaster
from app.routing.sight import SIMILARITY, VERSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BEFORE_FILE, AFTER_FILE = "before.npz", "after-{}.npz"


class ForesightUnreadable(SignalboxError):
    """What a router forecasts with cannot be read: train a new router."""


@dataclass(frozen=True)
class Foresight:
    """Forecasts of a ladder of models, cheapest first; gaps are the last one's quality less another's."""

    rungs: tuple[str, ...]
    seen_before: Forecaster
    """The quality of every model, from what is seen before any is asked."""
    seen_after: Mapping[str, Forecaster]
    """Of each model but the last: its quality and the last one's, from what is seen after it answered."""
    skip: Mapping[str, float]
    """Gap, forecast before it is asked, above which asking a model costs more than it saves."""
    thresholds: tuple[float, ...] = ()
    """Gaps after an answer, ascending, among which a guarantee chooses: laid down without the rows that it is of."""

    weak: float = -1.0
    """Similarity of the best passage up to which no model's answer was worth asking for: the documents are quoted."""

    def is_weak(self, seen: "Floats") -> bool:
        """Whether what was found is too far from the question for any model, from ``sight.before``."""
        return bool(seen[SIMILARITY] <= self.weak)

    def qualities(self, seen: "Floats") -> dict[str, float]:
        """Expected quality of every model, from ``sight.before``."""
        found = self.seen_before.forecast(seen[None, :])[0]
        return {rung: float(each) for rung, each in zip(self.rungs, found, strict=True)}

    def gap_after(self, rung: str, seen: "Floats") -> float:
        """How much better the last model is expected to be than an answer of ``rung``, from ``sight.after``."""
        own, last = self.seen_after[rung].forecast(seen[None, :])[0]
        return float(last - own)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write a file for each forecaster; what ``load`` needs besides comes back."""
        self.seen_before.save(folder, BEFORE_FILE)
        for rung, each in self.seen_after.items():
            each.save(folder, AFTER_FILE.format(rung))
        return {
            "sight": VERSION,
            "rungs": list(self.rungs),
            "skip": dict(self.skip),
            "thresholds": list(self.thresholds),
            "weak": self.weak,
        }

    @classmethod
    def load(cls, folder: Path, value: Mapping[str, Any]) -> Self:
        """Read what ``save`` wrote.

        Raises:
            ForesightUnreadable: a file is missing or damaged, or was made for other features.
        """
        if value.get("sight") != VERSION:
            raise ForesightUnreadable(
                "the router forecasts from other features than this version's: train a new router"
            )
        try:
            rungs = tuple(str(rung) for rung in value["rungs"])
            skip = {str(rung): float(each) for rung, each in value["skip"].items()}
            known = {rung: Forecaster.load(folder, AFTER_FILE.format(rung)) for rung in rungs[:-1]}
            laid_down = tuple(float(each) for each in value["thresholds"])
            seen_before = Forecaster.load(folder, BEFORE_FILE)
            return cls(rungs, seen_before, known, skip, laid_down, float(value["weak"]))
        except (OSError, EOFError, BadZipFile, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ForesightUnreadable(f"the router's forecasts cannot be read ({error}): train a new router") from error
