from datetime import timedelta

from app.core.workspace import Workspace
from app.monitoring.requests import read_requests
from tests.monitoring.conftest import START, make_rows


def test_requests_of_a_release_come_in_order_between_two_moments(workspace: Workspace, log) -> None:  # type: ignore[no-untyped-def]
    log(make_rows(10, first=10, release="a"))
    log(make_rows(10, first=0, release="a"))
    log(make_rows(10, first=100, release="b"))
    until = START + timedelta(seconds=14)
    rows = read_requests(workspace.requests_dir, release="a", since=None, until=until, limit=100)
    assert [row["request_id"] for row in rows] == [f"r{number:06}" for number in range(15)]
    since = START + timedelta(seconds=3)
    rows = read_requests(workspace.requests_dir, release="a", since=since, until=until, limit=2)
    assert [row["request_id"] for row in rows] == ["r000003", "r000004"]


def test_a_part_that_is_being_written_is_not_seen(workspace: Workspace, log) -> None:  # type: ignore[no-untyped-def]
    path = log(make_rows(3, release="a"))
    (path.parent / f".{path.name}.tmp").write_bytes(b"half")
    assert len(read_requests(path.parent, release="a", since=None, until=START + timedelta(days=1), limit=9)) == 3


def test_no_log_is_no_requests(workspace: Workspace) -> None:
    assert read_requests(workspace.requests_dir, release="a", since=None, until=START, limit=9) == []
