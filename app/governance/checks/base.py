"""What every check derives from, and what checks of one sort share.

Guarantees: a class that derives from ``Check`` is known to policies by its ``kind``; nothing else has to be touched.
Every check is a pure function of the evidence: no time, no chance (seeds are settings).
Not guaranteed: that a policy's thresholds are wise.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from app.core.settings import Settings
from app.core.statistics import Interval, bootstrap_mean, paired_bootstrap, paired_values
from app.governance.evidence import Evidence, EvidenceMissing, Outcomes, Row
from app.governance.findings import Finding, Light
from app.registry.tables import ROWS_FILE

Share = Annotated[float, Field(ge=0, le=1)]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]
Margin = Annotated[float, Field(ge=0)]


class Check(Settings):
    """One typed check of a policy. A subclass is known by the default of its field ``kind``."""

    known: ClassVar[dict[str, type["Check"]]] = {}

    kind: str
    """Which check this is."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Make the new check known to policies."""
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):
            Check.known[kind] = cls

    def judge(self, evidence: Evidence) -> Finding:
        """The finding; EvidenceMissing when something to judge by is not there."""
        raise NotImplementedError


class OverRows(Check):
    """A check of the rows of a table: the artifact's own, or those of its ancestors of a kind."""

    table: str = ROWS_FILE
    """File of the version that holds the rows."""

    of: str | None = None
    """Kind of the ancestors whose tables are read, such as ``dataset``; null: the artifact's own."""

    split: str | None = None
    """Only rows whose column ``split`` says so; null: every row."""

    def rows(self, evidence: Evidence) -> tuple[list[Row], tuple[str, ...]]:
        """The rows, and the digests of the versions that hold them.

        Raises:
            EvidenceMissing: there is no such table, or no row in it.
        """
        versions = evidence.behind(self.of) if self.of else [evidence.artifact]
        rows = [row for version in versions for row in evidence.rows(version, table=self.table)]
        rows = [row for row in rows if self.split in (None, row.get("split"))]
        if not rows:
            raise EvidenceMissing(f"{self.table} of {versions[0].kind} {versions[0].ref} has no rows to judge by")
        return rows, tuple(version.digest for version in versions)

    def values(self, rows: Sequence[Row], columns: Sequence[str]) -> list[list[object]]:
        """Some columns of the rows; EvidenceMissing names the first column that there is not."""
        if absent := [name for name in columns if name not in rows[0]]:
            raise EvidenceMissing(f"{self.table} has no column {absent[0]!r}: name one of {', '.join(rows[0])}")
        return [[row[name] for name in columns] for row in rows]


class ShareOfRows(OverRows):
    """A check that counts rows which should not be there."""

    maximum: Share = 0.0
    """Largest share allowed; more is red."""

    attention: Share | None = None
    """A larger share than this is amber: a person should look. Null: none is."""

    def counted(self, num: int, total: int, what: str, inputs: tuple[str, ...]) -> Finding:
        """The finding about ``num`` of ``total`` rows."""
        share = num / total
        light: Light = "red" if share > self.maximum else "green"
        if light == "green" and self.attention is not None and share > self.attention:
            light = "amber"
        reason = f"{num} of {total} rows {what} ({share:.2%}), at most {self.maximum:.2%} may"
        return Finding(light, reason, share, self.maximum, inputs)


class Compared(Check):
    """A check by a resampled interval."""

    metric: str = "exact_match"
    """Column of the evaluation's rows."""

    confidence: Confidence = 0.95
    """Of the two-sided bootstrap interval."""

    num_resamples: PositiveInt = 2000
    """Bootstrap resamples."""

    seed: NonNegativeInt = 0
    """Of the resampling, so that a replay gives the same bounds."""

    def mean(self, outcomes: Outcomes) -> Interval:
        """Mean outcome with its interval."""
        values = [value for _, value in outcomes]
        return bootstrap_mean(values, confidence=self.confidence, num_resamples=self.num_resamples, seed=self.seed)

    def change(self, before: Outcomes, after: Outcomes) -> Interval:
        """Mean change over the questions that both answered, with its interval."""
        try:
            first, second = paired_values(before, after)
        except ValueError as error:
            raise EvidenceMissing(str(error)) from error
        return paired_bootstrap(
            first, second, confidence=self.confidence, num_resamples=self.num_resamples, seed=self.seed
        )
