"""Every job explains itself, refuses bad input with one sentence, and does its work on the cluster, once."""

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.core.parquet import read_rows

ROOT = Path(__file__).resolve().parents[2]
JOBS = [
    "ingest",
    "import_model",
    "index",
    "synthesize",
    "train",
    "tune",
    "prove_resumption",
    "evaluate",
    "evaluate_retrieval",
    "tune_retriever",
    "promote",
    "retrain",
    "ensure_monitor",
    "curate",
    "answer_batches",
    "shadow",
    "train_router",
]


def run(job, *arguments, workspace=None, env=None):
    variables = {**os.environ, **(env or {})} | ({"SIGNALBOX_WORKSPACE": str(workspace)} if workspace else {})
    command = [sys.executable, "-m", f"jobs.{job}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=240)


def test_this_list_is_whole():
    files = {path.stem for path in (ROOT / "jobs").glob("[!_]*.py")} - {"common"}
    assert files == set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_help_teaches(job):
    done = run(job, "--help")
    assert done.returncode == 0, done.stderr
    assert "--workspace" in done.stdout
    assert "--config" in done.stdout


BEGINNERS = ("ingest", "import_model", "curate", "ensure_monitor")
NEEDED = {
    "train": ["--base", "x", "--data", "x"],
    "tune": ["--space", "x", "--base", "x"],
    "prove_resumption": ["--base", "x"],
    "evaluate": ["--suite", "x"],
    "evaluate_retrieval": ["--questions", "x"],
    "tune_retriever": ["--questions", "x"],
    "train_router": ["--from", "x"],
}


def test_only_a_first_job_makes_a_workspace(tmp_path):
    """In one process, as each start costs seconds: nothing but --help was imported before."""
    for name in sorted({*JOBS} - {*BEGINNERS}):
        job = importlib.import_module(f"jobs.{name}")
        ended = CliRunner().invoke(job.app, [*NEEDED.get(name, ()), "--workspace", str(tmp_path / "mistyped")])
        assert ended.exit_code == 2, (name, ended.output)
        assert "there is no workspace" in ended.output, (name, ended.output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "said"), [("documnets: {}", "did you mean 'documents'"), ("a: [", "not YAML")])
def test_a_bad_settings_file_is_refused(tmp_path, text, said):
    (tmp_path / "settings.yaml").write_text(text)
    done = run("ingest", "--source", tmp_path, "--config", tmp_path / "settings.yaml", workspace=tmp_path / "w")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_cluster_the_way_to_one_is_named(tmp_path):
    done = run("ingest", "--source", tmp_path, workspace=tmp_path / "w")
    assert done.returncode == 2
    assert "signalbox up" in done.stderr


@pytest.mark.parametrize(
    ("workspace", "sentence"), [("w", "has ended, its token"), ("other", "this shell is set up for")]
)
def test_a_shell_of_a_cluster_that_ended_is_refused(tmp_path, workspace, sentence):
    shell = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")}
    shell["SIGNALBOX_WORKSPACE"] = str(tmp_path / "w")
    done = run("ingest", "--source", tmp_path, "--workspace", tmp_path / workspace, env=shell)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def handbook(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "fees.md").write_text(
        "# Accounts\n\n## Harbour Account\n\nThe annual fee of the Harbour Account is 12 euros.\n"
    )
    (folder / "broken.docx").write_bytes(b"this is no document")
    return folder


def openlineage_events(root):
    return [json.loads(line) for line in (root / "openlineage.jsonl").read_text().splitlines()]


@pytest.mark.cluster
def test_a_folder_becomes_rows_once(cluster_workspace, handbook):
    root = cluster_workspace.root
    first = run("ingest", "--source", handbook, "--name", "jobs", "--json", workspace=root)
    assert first.returncode == 0, first.stderr
    dataset = json.loads(first.stdout.splitlines()[-1])
    assert (dataset["facts"]["num_documents"], dataset["facts"]["num_rejected"]) == (1, 1)
    again = run("ingest", "--source", handbook, "--name", "jobs", workspace=root)
    assert again.stdout.startswith(f"dataset {dataset['ref']} ({dataset['digest'][7:19]})")
    assert "  rejected broken.docx: " in again.stdout
    for job, kind in (("index", "index"), ("synthesize", "synthetic")):
        done = run(job, "--dataset", "jobs", "--json", workspace=root)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["kind"] == kind
    told = [event for event in openlineage_events(root) if event["job"]["name"] == "jobs.ingest"]
    runs = {event["run"]["runId"]: event for event in told if event["eventType"] == "COMPLETE"}
    versions = [[each["facets"]["version"]["datasetVersion"] for each in event["outputs"]] for event in runs.values()]
    assert [dataset["digest"] in each for each in versions] == [True] * 2
    source = (ROOT / "jobs/ingest.py").read_text()
    assert {event["job"]["facets"]["sourceCode"]["sourceCode"] for event in told} == {source}


@pytest.mark.cluster
def test_rows_are_curated_and_masked(cluster_workspace, tmp_path):
    records = [{"ask": f"Who looks after account {n}?", "completion": f"Mail jo{n}@example.org."} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, {"ask": "?"}]))
    arguments = ["--source", tmp_path / "rows.jsonl", "--rename", "ask=prompt", "--mask-personal", "--json"]
    done = run("curate", *arguments, workspace=cluster_workspace.root)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert (made["ref"], made["facts"]["num_rows"], made["facts"]["num_rejected"]) == ("rows@1", 8, 1)
    assert made["facts"]["quality"]["rows_with_finding"]["personal"] == 8
    folder = cluster_workspace.root / "store" / "dataset" / made["digest"][7:] / "files"
    assert {row["answer"] for row in read_rows(folder / "rows.parquet")} == {"Mail <EMAIL_ADDRESS>."}


BAD_INPUT = [
    ("ingest", ["--source", "no/such/folder"], "no/such/folder"),
    ("index", ["--dataset", "nothing"], "there is no dataset 'nothing'"),
    ("evaluate", ["--suite", "nothing", "--model", "nothing"], "there is no suite 'nothing'"),
    ("ingest", ["--source", "s3://bucket/documents"], "s3://bucket/documents is not a local folder"),
    ("train", ["--run", "small_sft"], "name it with --base"),
    ("train", ["--run", "large_sft", "--base", "small"], "leave out --base"),
    ("promote", ["--release", "nothing"], "there is no release 'nothing'"),
    ("promote", ["--approver", "jane"], "--printed-name"),
    ("retrain", [], "retraining plan"),
    ("curate", ["--name", "x"], "name files with --source"),
    ("curate", ["--source", "no/such/rows", "--drop", "typos"], "rows are not dropped for 'typos'"),
]


@pytest.fixture(scope="module")
def refused(cluster_workspace):
    """How each job of BAD_INPUT ended; two at a time, since most of each is the start of a process and a connection."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda bad: run(bad[0], *bad[1], workspace=cluster_workspace.root), BAD_INPUT))


@pytest.mark.cluster
@pytest.mark.parametrize("number", range(len(BAD_INPUT)), ids=[f"{bad[0]}-{bad[2]}" for bad in BAD_INPUT])
def test_bad_input_is_one_sentence(cluster_workspace, refused, number):
    (job, _, said), done = BAD_INPUT[number], refused[number]
    assert done.returncode == 2
    said_lines = [line for line in done.stderr.splitlines() if line.startswith("signalbox: ")]
    assert len(said_lines) == 1
    assert said in said_lines[0]
    assert "Traceback" not in done.stderr
    if job != "retrain":  # refused before it began
        told = [event for event in openlineage_events(cluster_workspace.root) if event["job"]["name"] == f"jobs.{job}"]
        failed = [event["run"]["facets"]["errorMessage"]["message"] for event in told if event["eventType"] == "FAIL"]
        assert len([message for message in failed if said in message]) == 1


def test_a_job_told_to_end_says_so_in_one_sentence(workspace):
    """`ray job stop` sends SIGTERM; Ray's own handler, set by its connection, would end the job with status 15."""
    code = f"""
import contextlib, os, signal, sys
from pathlib import Path
from jobs import common

@contextlib.contextmanager
def connect(*_, **__):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    yield

common.connect = connect
with common.job(Path({str(workspace.root)!r}), None, begins=True):
    os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (143, "")
    assert ended.stderr.startswith("signalbox: ended by SIGTERM")
    assert ended.stderr.count("\n") == 1
    events = (workspace.root / "openlineage.jsonl").read_text().splitlines()
    assert [json.loads(event)["eventType"] for event in events] == ["START", "ABORT"]
