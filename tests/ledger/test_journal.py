"""A killed process's rows are written by another, once, with the receipts that the clients have."""

import os
import signal
import subprocess
import sys

import pytest

from app.core.clock import utc_now
from app.core.parquet import parts_of
from app.governance.erasing import sweep
from app.ledger.batches import read_part, read_receipts, row_leaves, seal, write_part
from app.ledger.journal import SUFFIX, Journal, new_part, recover

CITED = [{"document_id": "d1", "chunk_id": "c1", "source": "loans.md", "title": None, "heading": "", "quote": "bytes"}]
WRITER = """
import sys
from pathlib import Path
from app.ledger.journal import Journal
from tests.ledger.test_journal import sealed
journal = Journal(Path(sys.argv[1]))
for number in range(3):
    journal.add(sealed(number))
journal._file.write(b'["torn')
print("written", flush=True)
sys.stdin.read()
"""


def sealed(number, **more):
    about = {"embedding": [0.25] * 3, "citations": CITED, "request_json": {"q": "ä\n"}, "cost_usd": 0.1 + 0.2}
    return seal({"request_id": f"r{number}", "time": utc_now(), "status": 200, **about, **more})


def ids_in(parts):
    return [row["request_id"] for part in parts for row in read_part(part).to_pylist()]


def test_what_a_killed_process_noted_is_recovered_when_it_is_dead_and_no_sooner(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ})
    assert writer.stdout.readline() == b"written\n"
    assert recover(tmp_path) == []
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    (part,) = recover(tmp_path)
    assert ids_in([part]) == ["r0", "r1", "r2"]
    assert list(row_leaves(read_part(part))) == read_receipts(part)
    assert read_part(part).to_pylist()[0]["cost_usd"] == 0.1 + 0.2
    assert recover(tmp_path) == []
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".receipts"}


@pytest.mark.parametrize("written", [False, True])
def test_a_writer_that_died_around_its_part_leaves_each_row_once(tmp_path, written):
    journal, row, part = Journal(tmp_path), sealed(1), new_part(tmp_path)
    journal.add(row)
    journal.becomes(part)
    if written:
        write_part(part, [row])
    journal._file.close()
    recover(tmp_path)
    assert ids_in(parts_of(tmp_path)) == ["r1"]
    assert read_receipts(parts_of(tmp_path)[0]) == [row.leaf]
    assert not list(tmp_path.glob(f".*{SUFFIX}"))


def test_a_recovery_that_is_cut_short_is_done_again_once(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.add(sealed(1))
    journal._file.close()

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("app.ledger.journal.write_part", full)
        with pytest.raises(OSError, match="no space"):
            recover(tmp_path)
    assert ids_in(recover(tmp_path)) == ["r1"]


def test_a_row_keeps_every_value(tmp_path):
    journal, row = Journal(tmp_path), sealed(1, question="\u2028 and half a \ud83d", error=None)
    journal.add(row)
    journal._file.close()
    (part,) = recover(tmp_path)
    write_part(tmp_path / "plain.parquet", [row])
    assert read_part(part).equals(read_part(tmp_path / "plain.parquet"))


def test_a_file_that_is_no_journal_is_set_aside_and_holds_up_nothing(tmp_path):
    for number, said in enumerate((b"nonsense\n", b"[1]\n", b'["leaf", {"time": {"time": "noon"}}]\n')):
        (tmp_path / f".open-{number}{SUFFIX}").write_bytes(said)
    assert recover(tmp_path) == []
    aside = list(tmp_path.glob(".*.unreadable"))
    assert len(aside) == 3
    os.utime(aside[0], (0, 0))
    sweep(tmp_path)  # an erasure leaves nothing that nobody reads
    assert sorted(tmp_path.iterdir()) == sorted(aside[1:])
