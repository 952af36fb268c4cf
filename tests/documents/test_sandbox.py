"""The sandbox: limits hold, a child that dies is replaced, nothing of the parent's leaks into it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from docx import Document

from app.core.digests import digest_file
from app.documents import sandbox as module
from app.documents.errors import CannotConvert, ConverterBroken
from app.documents.read import SourceFile, format_of
from app.documents.sandbox import Sandbox, child_environment
from app.documents.settings import MIB, LimitSettings

FAKE = """
import sys, types
from app.documents import child
child._leave_out_models = child._leave_out_pictures = lambda: None
fake = types.ModuleType('app.documents.convert')
class DocumentReader:
    def __init__(self, *, limits, pdf):
        pass
    def convert(self, data, *, name, kind):
        from app.documents.sections import Converted, Section
        exec(data.decode())
        return Converted('T', (Section(('T',), 'x' * globals().get('n', 3)),))
fake.DocumentReader = DocumentReader
sys.modules['app.documents.convert'] = fake
child.serve(int(sys.argv[1]), sys.argv[2])
"""


def as_file(path: Path, kind: str) -> SourceFile:
    return SourceFile(path, path.name, kind, digest_file(path), path.stat().st_size)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A sandbox whose converter runs the document's text as a program: the worst document there is."""
    limits = LimitSettings(timeout_s=1.0, memory_bytes=128 * MIB, text_chars=1000)
    with Sandbox(limits=limits) as sandbox:

        def convert(program: str) -> str:
            path = tmp_path_factory.mktemp("scripted") / "document.md"
            path.write_text(program)
            return sandbox.convert(as_file(path, "md")).sections[0].text

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CHILD", FAKE)
            convert("pass")
        yield convert


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("while True: pass", "not converted within 1 s"),
        ("import os; os._exit(3)", "status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("held = bytearray(300 << 20)", "bytes of memory"),
        ("globals()['n'] = 2000", "exceeds 1000 characters"),
        ("raise KeyError('a fault')", "the converter failed: KeyError: 'a fault'"),
        ("import json; json.loads('[' * 100_000)", "nested too deep"),
        ("open('/tmp/signalbox-filled', 'wb').truncate(1 << 40)", "File too large"),
    ],
)
def test_a_hostile_document_costs_itself_only(scripted, program: str, reason: str):
    with pytest.raises(CannotConvert, match=reason):
        scripted(program)
    assert scripted("globals()['n'] = 3") == "xxx"


def test_the_child_ends_by_itself_when_its_parent_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHILD", FAKE)
    sandbox = Sandbox(limits=LimitSettings(timeout_s=1.0))
    (tmp_path / "d.md").write_text("pass")
    sandbox.convert(as_file(tmp_path / "d.md", "md"))
    parent, child = sandbox._parent, sandbox._child
    assert parent is not None
    sandbox._control.close()
    sandbox._pipe.close()
    assert parent.wait(timeout=5) == 0
    assert not psutil.pid_exists(child)


def test_a_child_that_ended_between_two_documents_costs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHILD", FAKE)
    (tmp_path / "d.md").write_text("pass")
    with Sandbox(limits=LimitSettings(timeout_s=1.0)) as sandbox:
        for victim in ("_child", "_parent"):
            sandbox.convert(as_file(tmp_path / "d.md", "md"))
            process = getattr(sandbox, victim)
            os.kill(getattr(process, "pid", process), signal.SIGKILL)
            time.sleep(0.05)
        assert sandbox.convert(as_file(tmp_path / "d.md", "md")).sections[0].text == "xxx"


def test_a_file_that_changed_after_the_scan_is_refused(tmp_path: Path, converter: Sandbox):
    path = tmp_path / "d.md"
    path.write_text("as it was")
    file = as_file(path, "md")
    path.write_text("changed")
    with pytest.raises(CannotConvert, match="changed while"):
        converter.convert(file)


def test_a_converter_that_does_not_start_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHILD", "raise SystemExit(1)")
    (tmp_path / "d.md").write_text("x")
    with Sandbox(limits=LimitSettings()) as sandbox, pytest.raises(ConverterBroken, match="reinstall"):
        sandbox.convert(as_file(tmp_path / "d.md", "md"))


def test_the_child_gets_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    environment = child_environment(num_threads=1)
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert environment["OMP_NUM_THREADS"] == "1"


def test_settings_import_stays_light():
    program = "import sys, app.documents.settings; print({'ray', 'torch', 'docling', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def word_file() -> bytes:
    document = Document()
    document.add_heading("Harbour Account", 0)
    document.add_heading("Fees", 1)
    document.add_paragraph("The annual fee is 12 euros.")
    table = document.add_table(rows=2, cols=2)
    for place, text in enumerate(("Item", "Fee", "Card", "0012.50")):
        table.cell(place // 2, place % 2).text = text
    buffer = BytesIO()
    document.save(buffer)
    return buffer.getvalue()


DOCUMENTS = {
    "a.docx": word_file(),
    "a.md": b"# Harbour Account\n\n## Fees\n\nThe *annual* fee is 12 euros.\n\n"
    b"| Item | Fee |\n|--|--|\n| Card | 0012.50 |",
    "a.html": b"<h1>Harbour Account</h1><h2>Fees</h2><p>The <b>annual</b> fee is 12 euros.</p>"
    b"<table><tr><th>Item<th>Fee</tr><tr><td>Card<td>0012.50</tr></table>",
}


@pytest.fixture(scope="module")
def converter() -> Iterator[Sandbox]:
    """A sandbox with the real converter."""
    with Sandbox(limits=LimitSettings(timeout_s=10)) as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", DOCUMENTS)
def test_real_documents_keep_headings_and_tables_word_for_word(tmp_path: Path, converter: Sandbox, name: str):
    path = tmp_path / name
    path.write_bytes(DOCUMENTS[name])
    converted = converter.convert(as_file(path, path.suffix[1:]))
    assert [section.heading_path for section in converted.sections] == [("Harbour Account", "Fees")]
    table = "| Item | Fee |\n| --- | --- |\n| Card | 0012.50 |"
    assert converted.sections[0].text == f"The annual fee is 12 euros.\n\n{table}"


def test_hostile_samples_are_converted_or_refused_with_a_reason(shared_data: Path, converter: Sandbox):
    outcomes: dict[str, bool | str] = {}
    for path in sorted((shared_data / "hostile_samples").glob("*/*")):
        if kind := format_of(path.name):
            try:
                outcomes[path.name] = converter.convert(as_file(path, kind)).num_chars > 0
            except CannotConvert as error:
                outcomes[path.name] = str(error)
    assert len(outcomes) == 33
    assert sum(outcome is True for outcome in outcomes.values()) >= 5
    assert all(outcome is True or len(outcome) > 10 for outcome in outcomes.values())
    assert "password" in str(outcomes["poifs__protected_sha512.xlsx"])
