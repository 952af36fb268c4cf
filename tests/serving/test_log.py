import os
import time
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from app.core.clock import utc_now
from app.core.parquet import parts_of
from app.ledger.batches import read_receipts, root_of, seal, write_part
from app.ledger.journal import Journal
from app.ledger.log import REQUEST_BATCH
from app.serving.log import RequestLog, read_log

RELEASE = "sha256:" + "a" * 64


def record(number, **more):
    return {"request_id": f"r{number}", "time": utc_now(), "release": RELEASE, "status": 200, **more}


@pytest.fixture
def make_log(registry):
    logs = []

    def make(folder=registry.workspace.requests_dir, *, flush_s=0.02, max_queue=100, ledger_period_s=0.0):
        options = {"flush_s": flush_s, "max_queue": max_queue, "ledger_period_s": ledger_period_s}
        logs.append(RequestLog(folder, ledger=registry.ledger, **options))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def wait_for(condition):
    end_s = time.monotonic() + 10
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert condition()


def test_records_are_written_and_read_back_by_time(make_log, registry):
    log = make_log()
    moments = [utc_now() - timedelta(seconds=n) for n in range(5)]
    for number, moment in enumerate(moments):
        log.submit(record(number, time=moment, embedding=[0.5] * 384, request_json={"q": "ä"}, citations=[]))
    log.close()
    rows = read_log(registry.workspace.requests_dir).to_pylist()
    assert [row["request_id"] for row in rows] == ["r4", "r3", "r2", "r1", "r0"]
    assert rows[0]["embedding"] == [0.5] * 384
    assert rows[0]["request_json"] == '{"q":"ä"}'
    assert rows[0]["time"] == moments[4]
    assert log.num_logged == 5


def test_every_part_stands_in_the_ledger(make_log, registry):
    log = make_log()
    for number in range(3):
        log.submit(record(number))
        wait_for(lambda number=number: log.num_logged == number + 1)
    log.close()
    parts = parts_of(registry.workspace.requests_dir)
    leaves = [leaf.statement for leaf in registry.ledger.leaves(REQUEST_BATCH)]
    assert {leaf.name: leaf.subject for leaf in leaves} == {path.name: root_of(read_receipts(path)) for path in parts}
    assert {leaf.parents for leaf in leaves} == {(RELEASE,)}


def test_parts_are_entered_in_batches(make_log, registry):
    log = make_log(ledger_period_s=1000.0)
    for number in range(3):
        log.submit(record(number))
        wait_for(lambda number=number: log.num_logged == number + 1)
    assert len(list(registry.ledger.leaves(REQUEST_BATCH))) <= 1
    log.close()
    assert len(list(registry.ledger.leaves(REQUEST_BATCH))) == 3


def test_a_full_queue_drops_and_counts(make_log, tmp_path):
    (tmp_path / "blocked").mkdir(mode=0o700)
    log = make_log(tmp_path / "blocked", max_queue=5, flush_s=0.5)
    log._thread.join(0)
    for number in range(1_000):
        log.submit(record(number))
    log.close()
    assert log.num_logged + log.num_dropped == 1_000
    assert log.num_dropped > 0


def test_a_folder_that_cannot_be_written_keeps_the_newest_records(make_log, tmp_path):
    folder = tmp_path / "requests"
    log = make_log(folder, max_queue=4)
    folder.rmdir()
    folder.write_text("in the way")
    for number in range(9):
        log.submit(record(number))
        time.sleep(0.03)
    wait_for(lambda: log.num_dropped == 5)
    folder.unlink()
    folder.mkdir()
    log.close()
    assert [row["request_id"] for row in read_log(folder).to_pylist()] == ["r5", "r6", "r7", "r8"]


def test_parts_that_a_crash_kept_from_the_ledger_are_entered(make_log, registry):
    folder = registry.workspace.requests_dir
    folder.mkdir()
    write_part(folder / "old.parquet", [record(1)])
    write_part(folder / "new.parquet", [record(2)])
    (folder / ".half.parquet.tmp").write_bytes(b"PAR1")
    os.utime(folder / "old.parquet", (0, 0))
    make_log().close()
    assert [leaf.statement.name for leaf in registry.ledger.leaves(REQUEST_BATCH)] == ["old.parquet"]
    make_log().close()
    assert len(list(registry.ledger.leaves(REQUEST_BATCH))) == 1


def test_what_a_killed_gateway_had_not_written_is_logged_and_proven_by_the_next(make_log, registry):
    folder = registry.workspace.requests_dir
    folder.mkdir()
    dead = Journal(folder)
    dead.add(seal(record(1)))
    dead._file.close()
    log = make_log()
    log.submit(record(2))
    wait_for(lambda: log.proof("r1") and log.proof("r2"))
    assert sorted(read_log(folder)["request_id"].to_pylist()) == ["r1", "r2"]
    log.close()
    assert not list(folder.glob(".*"))


def test_parts_that_a_busy_ledger_refused_are_entered_later(make_log, registry, monkeypatch):
    real, calls = registry.ledger.append, []

    def busy_at_first(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise OperationalError("INSERT", {}, Exception("database is locked"))
        return real(*arguments, **options)

    monkeypatch.setattr(registry.ledger, "append", busy_at_first)
    log = make_log()
    log.submit(record(1))
    wait_for(lambda: len(calls) == 1)
    log.submit(record(2))
    wait_for(lambda: log.num_logged == 2)
    wait_for(lambda: log.proof("r1") and log.proof("r2"))


def test_since_leaves_out_what_is_older(make_log, registry):
    log = make_log()
    log.submit(record(1))
    wait_for(lambda: log.num_logged == 1)
    mark = utc_now()
    log.submit(record(2))
    log.close()
    folder = registry.workspace.requests_dir
    assert read_log(folder, since=mark)["request_id"].to_pylist() == ["r2"]
    assert read_log(folder, since=utc_now()).num_rows == 0


def test_no_log_yet(tmp_path):
    assert read_log(tmp_path / "nowhere").num_rows == 0
