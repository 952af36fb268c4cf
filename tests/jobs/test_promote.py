"""jobs.promote with an index: what it asks for, what it prints, and with which status it ends."""

from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from app.core.errors import exit_status
from app.loop_index import Proposal
from app.settings import SignalboxSettings
from jobs import _proposing, promote
from jobs.common import Job


@pytest.fixture
def run(registry, monkeypatch):
    @contextmanager
    def job(workspace, config):
        with exit_status():
            yield Job(registry.workspace, SignalboxSettings(), registry)

    monkeypatch.setattr(promote, "job", job)
    registry.publish("index", "handbook", inputs={})
    registry.publish("suite", "asked", inputs={})
    return lambda *words: CliRunner().invoke(promote.app, ["--no-serve", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--index", "handbook"], "give --index with --questions"),
        (["--questions", "asked"], "give --index with --questions"),
        (["--index", "handbook", "--questions", "asked", "--suite", "asked"], "and no --suite"),
        (["--index", "handbook", "--questions", "asked", "--context-passages", "4"], "give --suite with"),
        (["--context-passages", "21", "--suite", "asked"], "0<=x<=20"),
        (["--index", "handbook", "--questions", "unasked"], "there is no suite 'unasked': did you mean asked@1?"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_a_sentence(run, words, said):
    done = run(*words)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("light", "status", "said"), [("red", 3, ""), ("green", 2, "the release gate is red")])
def test_a_red_gate_ends_it_and_what_was_proposed_is_promoted(registry, run, monkeypatch, light, status, said):
    check = {"light": light, "kind": "improves", "reason": "change in recall_at_10"}
    artifact = {"kind": "index", "ref": "handbook@1"}
    facts = {"light": light, "gate": "release", "artifact": artifact, "checks": [check]}
    verdict = registry.publish("verdict", "retriever-handbook", inputs={}, facts=facts)
    release = registry.publish("release", "assistant", inputs={}) if light == "green" else None
    asked = {}
    monkeypatch.setattr(
        _proposing, "propose_index", lambda name, **given: asked.update(given) or Proposal(verdict, release, said)
    )
    done = run("--index", "handbook", "--questions", "asked")
    assert asked["policy"].name == "retriever"
    assert f"{light}: release gate for index handbook@1\n  {light}" in done.stdout
    assert done.exit_code == status, done.stderr  # 2: the release that was made up names no verdict to promote it by
