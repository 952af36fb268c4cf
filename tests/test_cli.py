"""The command line: what it says, how it ends, and that it starts light."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app import cli
from app.core.errors import SignalboxError, UsageError
from app.core.workspace import NoWorkspace, Workspace
from app.ledger.log import open_ledger


def leaves(command, path=()):
    """Every command by its words, groups walked through."""
    for name, each in command.commands.items():
        words = (*path, name)
        yield from leaves(each, words) if hasattr(each, "commands") else [(" ".join(words), each)]


COMMANDS = dict(leaves(typer.main.get_command(cli.app)))


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_all_commands_are_there():
    assert set(COMMANDS) >= {"up", "down", "status", "env", "demo", "verify"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_explained(name):
    command = COMMANDS[name]
    assert len(command.help or "") > 40
    assert [
        option.name for option in command.params if not getattr(option, "help", None) and option.name != "help"
    ] == []


def test_the_command_line_starts_without_heavy_libraries():
    heavy = ["ray", "torch", "pandas", "pyarrow", "mlflow", "sqlalchemy", "transformers", "httpx", "psutil"]
    code = f"import sys, app.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "exit_status", "sentence"),
    [
        (["env"], 2, "there is no workspace at"),
        (["env", "--workspace", "."], 2, "no cluster is up"),
        (["up", "--config", "missing.yaml"], 2, "missing.yaml"),
        (["up", "--no-such-option"], 2, "No such option"),
        (["lineage", b"abc\xff"], 2, "is not UTF-8"),
        (["status", "--workspace", "/dev/null/workspace"], 2, "--workspace"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_an_exit_status(tmp_path, arguments, exit_status, sentence):
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == exit_status
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("num_cpu: 8", "did you mean 'num_cpus'"),
        ("num_cpus: 0", "num_cpus"),
        ("num_cpus: [", "not valid"),
        ("- 1", "not valid"),
        ("first_port: x\nlast_port: y", "first_port: Input should be a valid integer"),
    ],
)
def test_a_wrong_settings_file_is_named_with_its_fault(tmp_path, text, sentence):
    path = tmp_path / "local.yaml"
    path.write_text(text, encoding="utf-8")
    ended = run("up", "--config", str(path), "--workspace", str(tmp_path / "workspace"))
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert sentence in ended.stderr
    assert str(path) in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


READERS = [
    "status", "down", "env", "verify", "approvals list", "approvals show x", "erase --resume", "production", "impact x",
    "approvals sign x --key k --printed-name n", "approvals reject x --key k --printed-name n --reason r",
    "approvals revoke x --key k --printed-name n --reason r", "evidence x --out pack.zip", "gate list", "gate show x",
    "gate replay x", "gate judge --policy data --artifact x", "keys list", "keys revoke x --reason r", "lineage x",
    "datasets list", "datasets show x", "datasets diff x y", "datasets export x --out y",
    "ledger checkpoint", "ledger export out", "ledger prove 1", "ledger prove-growth 1", "ledger witness list",
    "access list", "access limit x", "access limits", "access revoke x",
    "router show", "router guarantee", "router void --reason r", "router propose x", "router audit",
    "promote x --reason r", "rollback --reason r", "stop --reason r", "resume --reason r", "canary", "feedback",
    "receipt show x",
]  # fmt: skip
MAKERS = {"up", "demo", "keys new", "suite commit", "access grant", "models add-remote"}
NEED_NONE = {"gate checks", "gate schema", "ledger witness sign"}
NEED_FILES = {"ledger check-proof", "ledger cosign", "ledger witness add", "receipt check"}


@pytest.mark.parametrize("words", READERS)
@pytest.mark.parametrize("place", ["mistyped", "empty"])
def test_a_mistyped_workspace_is_told_and_not_made(tmp_path, monkeypatch, words, place):
    monkeypatch.chdir(tmp_path)
    if place == "empty" and words in ("status", "down", "env"):
        return  # these look at a cluster, which any folder may have
    if place == "empty":
        (tmp_path / place).mkdir()
    ended = CliRunner().invoke(cli.app, [*words.split(), "--workspace", place])
    assert isinstance(ended.exception, NoWorkspace), ended.output
    assert f"there is no workspace at {tmp_path / place}" in str(ended.exception)
    assert [path.name for path in tmp_path.rglob("*")] == (["empty"] if place == "empty" else [])


def test_every_command_is_among_those_that_make_a_workspace_or_do_not():
    readers = {name for name in COMMANDS if any(f"{words} ".startswith(f"{name} ") for words in READERS)}
    assert readers | MAKERS | NEED_NONE | NEED_FILES == set(COMMANDS)


def test_sigterm_is_one_sentence_and_nothing_half_written(tmp_path):
    """A command is told to end while it waits for the database's lock: nothing was appended, nothing is noise."""
    workspace = Workspace.find(tmp_path / "workspace")
    ledger = open_ledger(workspace)
    with ledger.database.write():
        words = ["keys", "new", "jane", "--role", "approver", "--person", "Jane", "--workspace", str(workspace.root)]
        command = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not (workspace.keys_dir / "jane.pub").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        command.terminate()
        time.sleep(0.2)
    said, noise = command.communicate(timeout=60)
    assert (command.returncode, said) == (143, "")
    assert noise == "signalbox: ended by SIGTERM before it was done: the same command again goes on or begins anew\n"
    assert ledger.size == 0


TIDYING = """
import time
from app.core.errors import exit_status
with exit_status():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("tidied up", flush=True)
"""


def test_sigterm_to_a_process_and_its_group_lets_it_tidy_up():
    """As `timeout` sends it: twice at once."""
    process = subprocess.Popen([sys.executable, "-c", TIDYING], stdout=subprocess.PIPE, text=True, process_group=0)
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "tidied up\n"
    assert process.returncode == 143


def test_status_of_a_workspace_without_cluster(tmp_path):
    ended = CliRunner().invoke(cli.app, ["status", "--json", "--workspace", str(tmp_path)])
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["state"] == "down"


def test_down_without_cluster_is_no_fault(tmp_path):
    ended = CliRunner().invoke(cli.app, ["down", "--workspace", str(tmp_path)])
    assert (ended.exit_code, ended.stdout) == (0, "no cluster was up\n")


@pytest.mark.parametrize(("error", "exit_status"), [(SignalboxError("it broke"), 1), (UsageError("ask again"), 2)])
def test_an_error_ends_with_its_sentence_and_status(monkeypatch, capsys, error, exit_status):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == exit_status
    assert capsys.readouterr().err == f"signalbox: {error}\n"


def test_verify_tells_its_counts_and_names_a_missing_key(workspace, registry):
    ended = CliRunner().invoke(cli.app, ["verify", "--json", "--workspace", str(workspace.root)])
    assert ended.exit_code == 0, ended.output
    facts = json.loads(ended.stdout)
    assert (facts["ok"], facts["artifacts"], facts["faults"]) == (True, 0, [])
    (workspace.keys_dir / "service.pub").unlink()
    ended = CliRunner().invoke(cli.app, ["verify", "--workspace", str(workspace.root)])
    assert ended.exit_code == 1
    assert "service.pub" in ended.stdout


def test_the_module_stays_short():
    assert len(Path(inspect.getfile(cli)).read_text(encoding="utf-8").splitlines()) < 200
