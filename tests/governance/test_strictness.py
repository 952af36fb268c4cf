"""A policy that asks less than another of its name: what is gone, looser or merely different is named."""

import pytest

from app.governance.policy import load_policy, parse_policy, shipped_policies
from app.governance.strictness import asks_less

CHECKS = [
    {"kind": "min_metric", "suite": "target", "threshold": 0.8},
    {"kind": "min_metric", "suite": "old", "threshold": 0.7},
    {"kind": "forgetting_budget", "budget": 0.05},
    {"kind": "personal_data", "maximum": 0.1},
    {"kind": "complete_lineage", "sources": ["dataset"]},
    {"kind": "approvals", "required": 2},
]


def changed(place, **fields):
    checks = [{**check, **fields} if place == number else check for number, check in enumerate(CHECKS)]
    return parse_policy({"name": "p", "gate": "candidate", "checks": checks})


OLD = changed(-1)


@pytest.mark.parametrize(
    ("place", "fields", "named"),
    [
        (0, {"threshold": 0.79}, "min_metric.threshold was 0.8 and is 0.79"),
        (1, {"threshold": 0.1}, "min_metric.threshold was 0.7 and is 0.1"),
        (0, {"bound": "value"}, "min_metric.bound was 'low' and is 'value'"),
        (0, {"metric": "contains"}, "min_metric.metric was 'exact_match' and is 'contains'"),
        (1, {"suite": "easy"}, "min_metric.suite was 'old' and is "),
        (2, {"budget": 0.06}, "forgetting_budget.budget was 0.05 and is 0.06"),
        (2, {"min_coverage": 0.1}, "forgetting_budget.min_coverage was 0.8 and is 0.1"),
        (3, {"maximum": 1.0}, "personal_data.maximum was 0.1 and is 1.0"),
        (3, {"kinds": ["email"]}, "personal_data.kinds was"),
        (4, {"sources": []}, "complete_lineage.sources was ['dataset'] and is []"),
        (5, {"required": 1}, "approvals.required was 2 and is 1"),
        (5, {"roles": ["approver", "auditor"]}, "approvals.roles was"),
    ],
)
def test_what_asks_less_is_named(place, fields, named):
    found = asks_less(changed(place, **fields), OLD)
    assert len(found) == 1
    assert found[0].startswith(named)


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        (0, {"threshold": 0.9}),
        (2, {"budget": 0.01}),
        (3, {"maximum": 0.0}),
        (4, {"sources": ["dataset", "synthetic"]}),
        (5, {"required": 3}),
    ],
)
def test_what_asks_more_is_fine(place, fields):
    assert asks_less(changed(place, **fields), OLD) == []
    assert asks_less(OLD, changed(place, **fields)) != []


def test_a_check_that_is_gone_is_named_and_one_more_is_fine():
    fewer = parse_policy({"name": "p", "gate": "candidate", "checks": CHECKS[:-1]})
    assert asks_less(fewer, OLD) == ["approvals is no longer asked"]
    assert asks_less(OLD, fewer) == []


@pytest.mark.parametrize("name", shipped_policies())
def test_a_policy_asks_no_less_than_itself(name):
    assert asks_less(load_policy(name), load_policy(name)) == []
