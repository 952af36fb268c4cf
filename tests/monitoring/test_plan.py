import pytest

from app.core.workspace import Workspace
from app.monitoring.plan import PlanMissing, RetrainPlan, load_plan, plan_path, save_plan

PLAN = RetrainPlan(source="documents", suite="new@1", regression_suites=("old@1",))


def test_a_plan_comes_back_as_it_was_recorded(workspace: Workspace) -> None:
    save_plan(PLAN, workspace)
    later = PLAN.model_copy(update={"suite": "newer@1"})
    assert load_plan(save_plan(later, workspace)) == later
    assert [path.name for path in workspace.root.iterdir()] == ["retrain.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no retraining plan"),
        ("{", "not a retraining plan"),
        ('{"source": "documents"}', "suite: Field required"),
        ('{"source": "d", "suite": "a", "sweets": []}', "unknown setting 'sweets'"),
        ('{"source": "d", "suite": "a", "regression_suites": ["a"]}', "cannot be a regression suite"),
    ],
)
def test_a_plan_that_cannot_be_used_says_why(workspace: Workspace, content: str | None, says: str) -> None:
    if content is not None:
        plan_path(workspace).write_text(content)
    with pytest.raises(PlanMissing, match=says):
        load_plan(plan_path(workspace))
