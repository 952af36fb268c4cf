"""`signalbox lineage | production | impact`: what they print, write and refuse."""

import json

import pytest
from typer.testing import CliRunner

from app import cli
from app.core.errors import UsageError
from app.ledger.keys import load_or_create
from tests.governance.conftest import POLICY, World
from tests.governance.served import build_served


@pytest.fixture
def said(registry, tmp_path):
    """Run a command in the workspace of a promoted release; its output comes back."""
    from app.governance.policy import parse_policy

    build_served(World(registry, tmp_path), parse_policy(POLICY))

    def run(*arguments, status=0):
        ended = CliRunner().invoke(cli.app, [*arguments, "--workspace", str(registry.workspace.root)])
        assert ended.exit_code == status, ended.output
        return ended.stdout

    return run


def test_a_release_and_an_answer_are_drawn_as_trees(said):
    tree = said("lineage", "handbook")
    assert tree.startswith("release handbook@1")
    assert "Jane Doe" in tree
    assert said("lineage", "r-1").startswith("answer '12 Crowns.'")
    assert "release handbook@1" in said("lineage", "dataset/handbook", "--onwards")


def test_the_graph_is_json_and_a_page(said, tmp_path):
    graph = json.loads(said("lineage", "handbook", "--json"))
    assert graph["tree"]["kind"] == "release"
    assert {end for edge in graph["edges"] for end in edge} == set(graph["nodes"])
    assert "wrote" in said("lineage", "handbook", "--html", str(tmp_path / "page.html"))
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_a_proof_of_production_is_written_and_checked(said, tmp_path):
    proof = tmp_path / "proof.json"
    assert "in production: handbook@1" in said("production", "--name", "handbook", "--out", str(proof))
    assert said("production", "--check", str(proof)).startswith("the proof holds")
    stranger = load_or_create(tmp_path / "keys", "other", "service")
    key = tmp_path / "other.pub"
    key.write_text(stranger.public.vkey)
    assert "not signed by" in said("production", "--check", str(proof), "--public-key", str(key), status=1)
    proof.write_text(proof.read_text().replace("in production", "stopped"))
    assert "it says state 'stopped'" in said("production", "--check", str(proof), status=1)


def test_the_past_and_other_names_had_nothing(said, registry):
    assert "nothing was in production" in said("production", "--name", "handbook", "--at", "2020-01-01T00:00:00Z")
    past = said("production", "--json", "--name", "handbook", "--at", "2020-01-01T00:00:00Z")
    assert json.loads(past)["state"] == "nothing was in production"
    ended = CliRunner().invoke(
        cli.app, ["production", "--name", "handbok", "--workspace", str(registry.workspace.root)]
    )
    assert "did you mean handbook@1?" in str(ended.exception)


def test_impact_names_what_to_make_again(said):
    text = said("impact", "fees.md")
    assert "answers that cite it" in text
    assert "small@1 (in production)" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("  1.")] == ["re-ingest"]
    assert json.loads(said("impact", "fees.md", "--json"))["rebuild"][0]["step"] == "re-ingest"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lineage", "nothing"], "names no one version"),
        (["lineage", "sha256:0"], "the ledger has no sha256:0"),
        (["impact", "nothing.md"], "did you mean"),
        (["production", "--at", "yesterday"], "no RFC 3339 time"),
        (["production", "--check", "missing.json"], "missing.json"),
    ],
)
def test_a_wrong_call_is_one_sentence(said, registry, arguments, sentence):
    command = [*arguments, "--workspace", str(registry.workspace.root)]
    with pytest.raises(Exception, match=sentence) as raised:
        CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert raised.value.exit_status in (1, 2)
    assert isinstance(raised.value, UsageError) or "missing.json" in str(raised.value)
