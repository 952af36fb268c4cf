"""Policies: what is shipped loads, what is unknown is refused by name with the nearest known name."""

import pytest

from app.governance.checks import Check, known_checks
from app.governance.policy import BadPolicy, load_policy, parse_policy, policy_of, publish_policy, shipped_policies


@pytest.mark.parametrize("name", shipped_policies())
def test_shipped_policies_load_under_their_file_s_name(name):
    policy = load_policy(name)
    assert policy.name == name
    assert policy.checks


def test_the_demo_s_policies_are_shipped():
    assert {"candidate", "data"} <= set(shipped_policies())
    candidate = load_policy("candidate")
    assert candidate.approvals.required == 1
    kinds = [check.kind for check in candidate.checks]
    assert {"suite_committed", "contamination", "min_metric", "forgetting_budget", "gate_passed"} <= {*kinds}


def test_a_policy_stands_at_each_of_the_six_places():
    gates = {load_policy(name).gate for name in shipped_policies()}
    assert gates == {"data", "candidate", "release", "training", "retraining", "escalation"}
    assert {load_policy(name).gate for name in gates} == gates


CHECK = {"kind": "min_rows", "minimum": 5}
WHOLE = {"name": "p", "gate": "data", "checks": [CHECK]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checks": [{"kind": "min_row", "minimum": 5}]}, "unknown check 'min_row': did you mean 'min_rows'"),
        ({"checks": [{"kind": "zzz"}]}, "unknown check 'zzz': known are"),
        ({"checks": [{"kind": "min_rows", "minimun": 5}]}, "did you mean 'minimum'"),
        ({"checks": [{"kind": "min_rows", "minimum": 0}]}, "greater than 0"),
        ({"checks": [{"kind": "min_rows"}]}, "Field required"),
        ({"checks": []}, "at least 1"),
        ({"checks": ["min_rows"]}, "checks"),
        ({"check": [CHECK]}, "did you mean 'checks'"),
        ({"gate": "door"}, "gate"),
        ({"name": "No Good"}, "name"),
        ({"checks": [{"kind": "approvals", "roles": ["trainer"]}]}, "roles"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_named(change, message):
    assert parse_policy(WHOLE).checks
    with pytest.raises(BadPolicy, match="policy") as caught:
        parse_policy({**WHOLE, **change})
    assert message in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("text", ["- a\n- b", "a: [", ""])
def test_files_that_are_no_policy(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BadPolicy, match=r"bad\.yaml"):
        load_policy(path)


def test_missing_files_and_names(tmp_path):
    with pytest.raises(BadPolicy, match="cannot read"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(BadPolicy, match="did you mean 'candidate'"):
        load_policy("candidat")


def test_a_policy_reads_back_from_yaml_and_from_its_version(registry, tmp_path):
    policy = load_policy("candidate")
    path = tmp_path / "again.yaml"
    path.write_text(policy.to_yaml())
    assert load_policy(path) == policy
    version = publish_policy(policy, registry)
    assert policy_of(version) == policy
    assert publish_policy(policy, registry) == version
    assert (registry.folder(version) / "policy.yaml").read_text() == policy.to_yaml()


def test_a_new_check_needs_no_other_file():
    from typing import Literal

    from app.governance.findings import Finding

    class AlwaysGreen(Check):
        """For this test."""

        kind: Literal["always_green"] = "always_green"

        def judge(self, evidence):
            return Finding("green", "always")

    try:
        assert isinstance(parse_policy({**WHOLE, "checks": [{"kind": "always_green"}]}).checks[0], AlwaysGreen)
    finally:
        del Check.known["always_green"]


def test_every_check_says_what_it_measures():
    for check in known_checks().values():
        assert "Unit:" in (check.__doc__ or ""), check
