"""`signalbox gate`: what it lists, judges and replays, and how it ends."""

import json
from importlib import resources

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from app.cli import app
from app.governance.checks import known_checks
from app.governance.policy import policy_schema, shipped_policies

FOLDER = resources.files("app.governance") / "policies"
POLICY = "name: mine\ngate: data\nchecks: [{kind: min_rows, minimum: 50}]\n"


@pytest.fixture
def run(world):
    def _run(*words):
        return CliRunner().invoke(app, ["gate", *words, "--workspace", str(world.registry.workspace.root)])

    return _run


@pytest.fixture
def judged(world, run, tmp_path):
    """Judge a dataset of ``num_rows`` by the command."""

    def _judged(num_rows, *words):
        path = tmp_path / "mine.yaml"
        path.write_text(POLICY)
        dataset = world.dataset(num_rows=num_rows)
        return run("judge", "--policy", str(path), "--artifact", f"dataset:{dataset.ref}", *words)

    return _judged


def test_every_check_is_listed_with_its_fields():
    text = CliRunner().invoke(app, ["gate", "checks"]).stdout
    whole = json.loads(CliRunner().invoke(app, ["gate", "checks", "--json"]).stdout)
    assert list(whole) == list(known_checks())
    for kind, check in known_checks().items():
        assert f"{kind}: {' '.join((check.__doc__ or '').split())[:40]}" in text
        assert {*check.model_fields} == {*whole[kind]["properties"]}
        assert all(f"    {name} (" in text for name in check.model_fields if name != "kind")


def test_every_field_of_every_check_is_explained():
    for kind, check in known_checks().items():
        assert [name for name, field in check.model_fields.items() if name != "kind" and not field.description] == [], (
            kind
        )


def test_the_shipped_schema_is_the_one_that_is_written():
    assert json.loads(CliRunner().invoke(app, ["gate", "schema"]).stdout) == policy_schema()
    assert json.loads((FOLDER / "policy.schema.json").read_text()) == policy_schema(), "run `signalbox gate schema`"


@pytest.mark.parametrize("name", shipped_policies())
def test_the_shipped_policies_hold_to_the_schema(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=policy.schema.json\n")
    jsonschema.validate(yaml.safe_load(text), policy_schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "check",
    [{"kind": "min_row", "minimum": 1}, {"kind": "min_rows", "minimun": 1}, {"kind": "min_rows"}, {"minimum": 1}],
)
def test_the_schema_refuses_what_the_policy_refuses(check):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "p", "gate": "data", "checks": [check]}, policy_schema())


@pytest.mark.parametrize(("num_rows", "status", "light"), [(50, 0, "green"), (49, 3, "red")])
def test_judge_show_list_and_replay(world, run, judged, num_rows, status, light):
    ended = judged(num_rows)
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (status, "verdict mine-handbook@1")
    assert json.loads(judged(num_rows, "--json").stdout)["light"] == light
    assert f"mine-handbook@1  {light}  data gate for dataset handbook@1, by mine@1" in run("list").stdout
    assert json.loads(run("list", "--json").stdout)[0]["light"] == light
    assert run("show", "mine-handbook@1").stdout.startswith(f"{light}: data gate for dataset handbook@1")
    shown = json.loads(run("show", "mine-handbook@1", "--json").stdout)
    assert shown["inputs"]["evidence"]["at"] <= world.registry.get("verdict", "mine-handbook@1").created_at
    again = run("replay", "mine-handbook@1", "--json")
    assert (again.exit_code, json.loads(again.stdout)["same"], json.loads(again.stdout)["light"]) == (0, True, light)
    assert "comes out the same" in run("replay", "mine-handbook@1").stdout


def test_a_replay_that_differs_names_what_differs(world, run, judged):
    judged(49)
    red = world.registry.get("verdict", "mine-handbook")
    facts = {**red.facts, "light": "green"}
    world.registry.publish("verdict", red.name, inputs=red.manifest["inputs"], parents=red.parents, facts=facts)
    ended = run("replay", "mine-handbook@2")
    assert ended.exit_code == 1
    assert "  light: recorded 'green', now 'red'" in ended.stdout
    assert json.loads(run("replay", "mine-handbook@2", "--json").stdout)["differences"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--evaluation", "small-mine"], "write LABEL=REF"),
        (["--evaluation", "target=none"], "no evaluation 'none'"),
        (["--with", "data=plan:none"], "no plan 'none'"),
    ],
)
def test_what_is_asked_wrongly_is_named(judged, words, says):
    assert says in str(judged(50, *words).exception)
    assert judged(50, *words).exception.exit_status == 2


def test_evidence_is_handed_in_by_label(world, run):
    model = world.model()
    good, old = world.evaluation([1] * 50, model=model), world.evaluation([0] * 50)
    verdict = world.registry.publish("suite", "s", inputs={})
    given = [
        "--evaluation",
        f"target={good.digest}",
        "--production",
        f"target={old.ref}",
        "--with",
        f"x=suite:{verdict.ref}",
    ]
    ended = run("judge", "--policy", "candidate", "--artifact", model.digest, *given, "--json")
    found = world.registry.get("verdict", json.loads(ended.stdout)["ref"]).manifest["inputs"]["evidence"]
    assert found["candidate"] == {"target": good.digest}
    assert found["production"] == {"target": old.digest}
    assert found["others"] == {"x": {"kind": "suite", "digest": verdict.digest}}
