"""README says what is there: its table is a benchmark file's, its commands and jobs exist."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from app.cli import app as cli
from benchmarks import continual, demo, impact, ledger, retrieval, routing, training

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
SETS = ("obliqa", "medquad", "hotpotqa")
OUTCOMES = ("routellm", "llmrouter")
FENCED = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", README, flags=re.DOTALL | re.MULTILINE)
BLOCKS = "\n".join(text for language, text in FENCED if not language)

pytestmark = pytest.mark.docs


def tables():
    """README's tables as their benchmarks make them from the files that they wrote."""
    made = {
        "demo": demo.table, "ledger": ledger.table, "impact": impact.table, "training": training.table,
        "continual": continual.table,
    }  # fmt: skip
    each = {name: make(json.loads((RESULTS / f"{name}.json").read_text())) for name, make in made.items()}
    sets = {name: json.loads((RESULTS / f"retrieval_{name}.json").read_text()) for name in SETS}
    tuned = json.loads((RESULTS / "retrieval_obliqa_tuned.json").read_text())
    both = {"retrieval": retrieval.compared(sets), "tuned": retrieval.compared_tuned("obliqa", tuned)}
    of_routing = {f"routing_{name}": json.loads((RESULTS / f"routing_{name}.json").read_text()) for name in OUTCOMES}
    return {**each, **both, **{name: routing.table(found["results"]) for name, found in of_routing.items()}}


@pytest.mark.parametrize(
    "name",
    [
        "demo",
        "ledger",
        "impact",
        "training",
        "continual",
        "retrieval",
        "tuned",
        *(f"routing_{name}" for name in OUTCOMES),
    ],
)
def test_a_table_is_the_benchmark_files(name):
    assert tables()[name] in README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", BLOCKS, flags=re.MULTILINE))))
def test_a_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"\bsignalbox (\w+)", BLOCKS))))
def test_a_command_exists(command):
    assert command in typer.main.get_command(cli).commands


@pytest.mark.parametrize("line", [line for line in BLOCKS.splitlines() if "-m jobs." in line])
def test_a_job_takes_the_options_that_the_readme_gives_it(line):
    words = shlex.split(line.partition(" -m ")[2])
    module = importlib.import_module(words[0])
    known = {name for each in typer.main.get_command(module.app).params for name in each.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= known


def test_the_numbers_of_the_table_stand_nowhere_by_hand():
    outside = README
    for table in tables().values():
        outside = outside.replace(table, "")
    assert not re.findall(r"\b0\.\d{3}\b", outside)
