"""Whether a router does on rows that it never saw what it promises."""

from typing import Literal

from app.core.statistics import Interval
from app.governance.checks.base import Compared, Share
from app.governance.evidence import Evidence, EvidenceMissing, Row
from app.governance.findings import Finding, Light

TABLE = "held-out.parquet"
COLUMNS = ("quality", "quality_last", "rung", "last")


class RoutingKept(Compared):
    """A router loses no more quality on held-out rows than its guarantee allows. Unit: quality lost on the mean.

    Red when the loss is above the tolerance for sure (bootstrap, lower end), too little quality is kept, or forecasts
    before answering buy no more than chance does (APGR, Ong et al., arXiv 2406.18665); amber when only the estimate is
    above the tolerance, or when there is no guarantee or none that saves a call.
    """

    kind: Literal["routing"] = "routing"

    min_kept: Share = 0.95
    """Least share of the largest model's quality that is kept."""

    min_apgr: Share = 0.5
    """Least area under the quality that calls to the largest model buy; 0.5 is chance. Not asked where there is no
    gap between the models."""

    min_rows: int = 50
    """Fewest held-out rows to judge by."""

    def judge(self, evidence: Evidence) -> Finding:
        router, rows = evidence.artifact, evidence.rows(evidence.artifact, table=TABLE)
        if len(rows) < self.min_rows or any(name not in rows[0] for name in COLUMNS):
            raise EvidenceMissing(
                f"{TABLE} of {router.ref} holds {len(rows)} rows, {self.min_rows} are asked for: train it"
            )
        promised = evidence.fact("guarantee") or {}
        tolerance = float(promised.get("tolerance", 0.0))
        lost = self._lost(rows)
        largest = sum(row["quality_last"] for row in rows)
        kept = sum(row["quality"] for row in rows) / largest if largest else 1.0
        area = evidence.fact("held_out.apgr")
        light = self._light(lost, kept, area, tolerance, promised.get("threshold") is not None)
        saved = sum(row["rung"] != row["last"] for row in rows) / len(rows)
        said = "no gap" if area is None else f"APGR {area:.3f}"
        reason = f"{lost.shown(sign=True)} quality lost on {len(rows)} held-out rows, {tolerance:g} promised"
        reason += "" if promised else " by no guarantee"
        reason += f"; {kept:.1%} kept, {saved:.0%} of large calls saved, {said}"
        return Finding(light, reason, lost.value, tolerance, (router.digest,))

    def _lost(self, rows: list[Row]) -> Interval:
        return self.mean([(str(row["row_id"]), row["quality_last"] - row["quality"]) for row in rows])

    def _light(self, lost: Interval, kept: float, area: float | None, tolerance: float, promises: bool) -> Light:
        if lost.low > tolerance or kept < self.min_kept or (area is not None and area < self.min_apgr):
            return "red"
        return "green" if promises and lost.value <= tolerance else "amber"
