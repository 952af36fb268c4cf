"""What people have to say before anything reaches production."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from app.governance.checks.base import Check
from app.governance.evidence import Evidence
from app.governance.findings import Finding


class Approvals(Check):
    """Enough people approved: n of m, none of them the trainer. Unit: approvals. Judged at promotion."""

    kind: Literal["approvals"] = "approvals"

    required: PositiveInt = 1
    """n: approvals by different keys and different persons."""

    roles: tuple[Literal["approver", "reviewer", "auditor"], ...] = ("approver",)
    """Roles whose signature counts."""

    of: tuple[str, ...] = ()
    """m: key names (``approver/jane``) that may approve; empty: every key of the roles."""

    meaning: str = "approved for production"
    """What the signature must say."""

    valid_for_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    """How long a signature counts, judged when the promotion is made; none: until it expires by itself."""

    def judge(self, evidence: Evidence) -> Finding:
        reason = f"{self.required} approval(s) by {' or '.join(self.roles)}, never the trainer: judged at promotion"
        return Finding("pending", reason, None, self.required)
