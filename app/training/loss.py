"""The loss curve as a table and as a picture, for the model's folder and for MLflow."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from app.core.parquet import write_rows

CURVE = pa.schema(
    {"step": pa.int64(), "loss": pa.float64(), "learning_rate": pa.float64(), "tokens_per_s": pa.float64()}
)
"""One row per hundredth of the run: the mean loss since the row before, and what went with it. A recipe may note more
(`dpo`: ``reward_margin`` and ``pair_accuracy``), as columns at the end."""

CURVE_FILE, PLOT_FILE = "loss.parquet", "loss.png"


def write_curve(curve: Sequence[dict[str, float]], folder: Path, *, title: str) -> None:
    """Write `loss.parquet` and `loss.png`."""
    more = [(name, pa.float64()) for name in curve[0] if name not in CURVE.names]
    rows = [{**point, "step": int(point["step"])} for point in curve]
    write_rows(folder / CURVE_FILE, rows, schema=pa.schema([*CURVE, *more]))
    _plot(curve, folder / PLOT_FILE, title)


def _plot(curve: Sequence[dict[str, float]], path: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([point["step"] for point in curve], [point["loss"] for point in curve])
    axes.set(title=title, xlabel="step", ylabel="loss (nats per learned token)", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=100, metadata={"Software": None})
