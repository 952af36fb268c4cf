"""Drift of one window against the baseline, measured by NannyML. Pure.

Every signal has a figure and a threshold:

- question length, retrieval score, confidence, embedding novelty: Kolmogorov-Smirnov distance;
- share of the small model: L-infinity distance, which for two routes is the difference of the shares;
- embedding components: the largest Kolmogorov-Smirnov distance among them, its threshold corrected for their number;
- embedding structure: PCA reconstruction error (NannyML's multivariate detector) of the whole embedding.

The embedding's figures are one signal, as they see the same thing. NannyML's own thresholds come from chunks of the
reference compared with the whole that contains them, which is biased when there are few chunks. Thresholds here come
from the two-sample Kolmogorov-Smirnov distribution (conservative for ties), the binomial distribution, and five-fold
cross-validation of the reconstruction error.

Guarantees: in a window that is like the baseline one figure passes its threshold with about the chance
``false_alarm_rate``, where requests are independent; the alarm needs ``min_signals`` signals at once. Not
guaranteed: that drift means worse answers.
"""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import NormalDist
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from app.core.errors import SignalboxError
from app.monitoring.settings import MonitorSettings
from app.monitoring.signals import EMBEDDING, NOVELTY, SCALARS, SMALL_SHARE

if TYPE_CHECKING:
    import pandas as pd

CODE_VERSION = "drift-1"
COMPONENTS = "embedding_components"
STRUCTURE = "embedding_structure"
KS, L_INFINITY = "kolmogorov_smirnov", "l_infinity"
NUM_FOLDS = 5

Columns = Mapping[str, Sequence[Any]]


class DriftNotMeasured(SignalboxError):
    """NannyML gave no figure for a signal: look for constant or empty columns in the request log."""


@dataclass(frozen=True)
class Figure:
    """One measurement of one window. ``signal`` groups measurements that see the same thing."""

    name: str
    signal: str
    measure: str
    value: float
    threshold: float

    @property
    def alarm(self) -> bool:
        """Whether the value is past its threshold."""
        return self.value > self.threshold

    def to_json(self) -> dict[str, Any]:
        """For reports and the ledger."""
        return asdict(self) | {"alarm": self.alarm}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The figure that ``to_json`` wrote."""
        return cls(**{key: value for key, value in data.items() if key != "alarm"})


def alarming_signals(figures: Sequence[Figure]) -> list[str]:
    """Signals past their thresholds, each once, in order."""
    return list(dict.fromkeys(figure.signal for figure in figures if figure.alarm))


def is_alarm(figures: Sequence[Figure], *, min_signals: int) -> bool:
    """Whether so many signals are past their thresholds at once."""
    return len(alarming_signals(figures)) >= min_signals


def fit_thresholds(reference: Columns, *, settings: MonitorSettings) -> dict[str, float]:
    """Thresholds of every figure from the baseline alone; keys are the figures' names."""
    num_reference, names = len(reference[NOVELTY]), _component_names(reference)
    sizes = {"num_reference": num_reference, "num_window": settings.window_size}
    distance = max(ks_threshold(settings.false_alarm_rate, **sizes), settings.min_distance)
    corrected = max(ks_threshold(settings.false_alarm_rate / len(names), **sizes), settings.min_distance)
    share = share_threshold(sum(reference[SMALL_SHARE]), settings.false_alarm_rate, **sizes)
    thresholds = dict.fromkeys((*SCALARS, NOVELTY), distance) | {COMPONENTS: corrected}
    thresholds[SMALL_SHARE] = max(share, settings.min_distance)
    return thresholds | {STRUCTURE: _structure_threshold(reference[EMBEDDING], settings=settings)}


def measure_window(reference: Columns, window: Columns, *, thresholds: Mapping[str, float]) -> list[Figure]:
    """Every figure of one whole window."""
    names = _component_names(reference)
    with _no_chunk_warning():
        scalar = _distances(reference, window, (*SCALARS, NOVELTY, SMALL_SHARE, *names))
        scalar[STRUCTURE] = _reconstruction(reference[EMBEDDING], window[EMBEDDING])[0]
    scalar[COMPONENTS] = max(scalar.pop(name) for name in names)
    return [_figure(name, value, thresholds[name]) for name, value in scalar.items()]


def ks_threshold(rate: float, *, num_reference: int, num_window: int) -> float:
    """Two-sample Kolmogorov-Smirnov distance that chance passes at ``rate`` (Smirnov's limit), at most 1."""
    harmonic = (num_reference + num_window) / (num_reference * num_window)
    return min(1.0, math.sqrt(-0.5 * math.log(rate / 2) * harmonic))


def share_threshold(num_small: int, rate: float, *, num_reference: int, num_window: int) -> float:
    """Difference of two shares that chance passes at ``rate`` (normal limit; share after Agresti and Coull)."""
    z = _normal_quantile(rate / 2)
    share = (num_small + z * z / 2) / (num_reference + z * z)
    return z * math.sqrt(share * (1 - share) * (1 / num_reference + 1 / num_window))


def load_nannyml() -> ModuleType:
    """NannyML, imported where it is used: it takes 4 s and 390 MB. Its usage reports stay off."""
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    import pandas as pd

    pd.options.future.infer_string = False  # NannyML 0.13 predates the string type of pandas 3

    return import_module("nannyml")


@contextmanager
def _no_chunk_warning() -> Iterator[None]:
    """NannyML warns when there are too few chunks for its own thresholds, which are not used here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The resulting number of chunks is too low")
        yield


def _normal_quantile(tail: float) -> float:
    return -NormalDist().inv_cdf(tail)


def _component_names(columns: Columns) -> list[str]:
    return [name for name in columns if name.startswith("embedding_") and name != NOVELTY]


def _figure(name: str, value: float, threshold: float) -> Figure:
    signal = EMBEDDING if name.startswith(EMBEDDING) else name
    measure = {SMALL_SHARE: L_INFINITY, STRUCTURE: "reconstruction_error"}.get(name, KS)
    if math.isnan(value):
        raise DriftNotMeasured(f"NannyML gave no figure for {name}: look for empty values of it in the request log")
    return Figure(name, signal, measure, float(value), float(threshold))


def _distances(reference: Columns, window: Columns, names: Sequence[str]) -> dict[str, float]:
    calculator = load_nannyml().UnivariateDriftCalculator(
        column_names=list(names),
        treat_as_numerical=[name for name in names if name != SMALL_SHARE],
        treat_as_categorical=[SMALL_SHARE],
        continuous_methods=[KS],
        categorical_methods=[L_INFINITY],
        chunk_size=len(window[names[0]]),
    )
    calculator.fit(_frame(reference, names))
    result = calculator.calculate(_frame(window, names)).filter(period="analysis").to_df()
    return {name: float(result[name, L_INFINITY if name == SMALL_SHARE else KS, "value"].iloc[0]) for name in names}


def _reconstruction(reference: Sequence[Any], window: Sequence[Any]) -> tuple[float, float]:
    """Mean reconstruction error of a window's embeddings, and its standard error."""
    columns = [f"dimension_{number}" for number in range(len(reference[0]))]
    calculator = load_nannyml().DataReconstructionDriftCalculator(column_names=columns, chunk_size=len(window))
    calculator.fit(_frame(np.asarray(reference), columns))
    result = calculator.calculate(_frame(np.asarray(window), columns)).filter(period="analysis").to_df()
    row = result["reconstruction_error"].iloc[0]
    return float(row["value"]), float(row["sampling_error"])


def _structure_threshold(embeddings: Sequence[Any], *, settings: MonitorSettings) -> float:
    with _no_chunk_warning():
        folds = [_reconstruction(*_fold(embeddings, number)) for number in range(NUM_FOLDS)]
    mean = sum(value for value, _ in folds) / NUM_FOLDS
    deviation = math.sqrt(sum(error * error for _, error in folds) / NUM_FOLDS * len(embeddings) / NUM_FOLDS)
    error = deviation * math.sqrt(1 / settings.window_size + 1 / len(embeddings))
    return mean + _normal_quantile(settings.false_alarm_rate) * error


def _fold(rows: Sequence[Any], number: int) -> tuple[list[Any], list[Any]]:
    return [row for i, row in enumerate(rows) if i % NUM_FOLDS != number], list(rows[number::NUM_FOLDS])


def _frame(data: Any, columns: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(data, columns=list(columns))
