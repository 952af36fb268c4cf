"""What a retraining does again: recorded when a release is deployed, read by the job that a trigger starts.

Guarantees: the plan on disk is whole or the one before; the retraining that reads it publishes it as a version with a
leaf (kind ``plan``, ``facts.asked``), behind the verdict that lets it spend. Not guaranteed: that its versions still
exist, which the retraining says; or that nobody changed the file before it was read: the leaf says what was done.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from app.core.errors import UsageError
from app.core.files import FileUnusable, read_text, replace_text
from app.core.settings import Settings, first_fault
from app.core.workspace import Workspace

FILE = "retrain.json"


class PlanMissing(UsageError):
    """No retraining plan was recorded for the workspace, or it cannot be read: promote a release with its plan."""


class RetrainPlan(Settings):
    """How a candidate is built again from the documents as they are now."""

    source: str
    """Folder or URI of the documents."""

    dataset: str = "handbook"
    """Name of the dataset and of its index."""

    synthetic: str = "handbook-qa"
    """Name of the synthetic rows."""

    model: str = "small"
    """Name of the model that learns on."""

    release: str = "assistant"
    """Name of the release; its production version is what the candidate learns on from and is compared with."""

    suite: str
    """Suite of the questions that the candidate must answer better."""

    regression_suites: tuple[str, ...] = Field(default=())
    """Suites of all earlier promotions: the candidate must not lose more on them than the policy's budget."""

    policy: str = "candidate"
    """Policy that judges the candidate: a file, or the name of one that comes with Signalbox."""

    config: str | None = None
    """Settings file; None is the local profile."""

    @model_validator(mode="after")
    def _suites_differ(self) -> Self:
        if self.suite in self.regression_suites:
            raise ValueError(f"the suite {self.suite!r} cannot be a regression suite of the same plan")
        return self


def plan_path(workspace: Workspace) -> Path:
    """Where the workspace's plan lies."""
    return workspace.root / FILE


def save_plan(plan: RetrainPlan, workspace: Workspace) -> Path:
    """Record the plan in place of the one before."""
    path = plan_path(workspace)
    replace_text(path, plan.model_dump_json(indent=2) + "\n")
    return path


def load_plan(path: Path) -> RetrainPlan:
    """Read a plan.

    Raises:
        PlanMissing: it is not there, or not a plan.
    """
    try:
        return RetrainPlan.model_validate_json(read_text(path))
    except FileUnusable as error:
        raise PlanMissing(f"there is no retraining plan, {error}: record one when you promote a release") from error
    except ValidationError as error:
        raise PlanMissing(f"{path} is not a retraining plan ({first_fault(error)}): record it again") from error
