"""What a router is trained on: requests, what was seen of each, and how good every model's answer was.

Guarantees: rows keep their order, which is that of their ids, and ids are hashes: any part of them is a random one; a
table written and read again gives the same numbers. No question and no answer is kept, only numbers read off them.
Not guaranteed: that rows are like the traffic to come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.core.errors import SignalboxError
from app.core.parquet import read_rows, write_rows
from app.registry.tables import ROWS_FILE
from app.routing.features import Features

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

KIND = "outcomes"
LEARN, CALIBRATE, HELD_OUT = "learn", "calibrate", "held-out"
PARTS = (LEARN,) * 5 + (CALIBRATE,) * 3 + (HELD_OUT,) * 2
"""Every ten rows, in the order of their ids."""
NAMES = ("row_id", "source", "before", "after", "judged", "quality", "tokens")


class SampleUnreadable(SignalboxError):
    """A version holds no outcomes that this version can read: make them again with jobs.train_router."""


@dataclass(frozen=True)
class Row:
    """One request. ``after`` and ``judged`` are of the models' answers, cheapest first, as ``quality`` is (0 to 1)."""

    row_id: str
    source: str
    before: Sequence[float]
    after: Sequence[Sequence[float]]
    judged: Sequence[Features]
    quality: Sequence[float]
    tokens: Sequence[float]
    """Prompt and completion."""


@dataclass(frozen=True)
class Sample:
    """Outcomes of one ladder of models, cheapest first."""

    rungs: tuple[str, ...]
    rows: tuple[Row, ...]
    embedded: int
    """So many of the numbers seen before, the first, are the question's embedding."""

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, name: str) -> "Sample":
        """The rows to learn from, to calibrate on, or held out."""
        taken = (row for place, row in enumerate(self.rows) if PARTS[place % len(PARTS)] == name)
        return Sample(self.rungs, tuple(taken), self.embedded)

    @property
    def before(self) -> "Floats":
        """(n, d)."""
        return _array([row.before for row in self.rows])

    def after(self, rung: int) -> "Floats":
        """(n, d + 22) of one model."""
        return _array([row.after[rung] for row in self.rows])

    @property
    def quality(self) -> "Floats":
        """(n, models)."""
        return _array([row.quality for row in self.rows]).reshape(len(self), len(self.rungs))

    @property
    def tokens(self) -> "Floats":
        """(n, models)."""
        return _array([row.tokens for row in self.rows]).reshape(len(self), len(self.rungs))

    def save(self, folder: Path) -> Path:
        """Write ``rows.parquet`` into a folder."""
        rows = [
            {
                "row_id": row.row_id,
                "source": row.source,
                "before": list(row.before),
                "after": [list(each) for each in row.after],
                "judged": [list(astuple(each)) for each in row.judged],
                "quality": list(row.quality),
                "tokens": list(row.tokens),
            }
            for row in self.rows
        ]
        write_rows(folder / ROWS_FILE, rows, schema=_schema())
        return folder / ROWS_FILE

    @classmethod
    def load(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """Read what ``save`` wrote, with the facts of its version (``rungs``, ``embedded``).

        Raises:
            SampleUnreadable: it is no such table.
        """
        try:
            found = [_row(row) for row in read_rows(folder / ROWS_FILE)]
            return cls(tuple(facts["rungs"]), tuple(found), int(facts["embedded"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise SampleUnreadable(f"{folder} holds no outcomes ({error}): make them with jobs.train_router") from error


def _row(row: Mapping[str, Any]) -> Row:
    judged = [Features(*each) for each in row["judged"]]
    return Row(**{name: row[name] for name in NAMES if name != "judged"}, judged=judged)


def _array(values: Sequence[Any]) -> "Floats":
    import numpy as np

    return np.asarray(values, dtype=np.float64)


def _schema() -> Any:
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    lists = {"after": pa.list_(numbers), "judged": pa.list_(numbers)}
    kinds = {"row_id": pa.string(), "source": pa.string(), **lists}
    return pa.schema([(name, kinds.get(name, numbers)) for name in NAMES])
