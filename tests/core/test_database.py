"""One writer at a time, any number of processes."""

import multiprocessing

import pytest
from sqlalchemy import func, insert, inspect, select
from sqlalchemy.exc import IntegrityError

from app.core.database import VERSION_TABLE, Database, DatabaseUnusable, open_database
from app.core.schema import metadata, tree_runs


def _count_up(url: str, rounds: int) -> None:
    database = Database(url).migrate()
    for _ in range(rounds):
        with database.write() as connection:
            last = connection.execute(select(func.max(tree_runs.c.start))).scalar()
            connection.execute(insert(tree_runs).values(level=0, start=(last or 0) + 1, hashes=b"x"))


def test_migration_makes_every_table(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/x.db").migrate().migrate()
    assert set(inspect(database.engine).get_table_names()) == set(metadata.tables) | {VERSION_TABLE}


def test_writers_in_several_processes_lose_nothing(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_count_up, args=(url, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    with Database(url).read() as connection:
        assert connection.execute(select(func.max(tree_runs.c.start))).scalar() == 100


def test_a_raising_block_writes_nothing(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/x.db").migrate()
    row = {"level": 0, "start": 1, "hashes": b"x"}
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(tree_runs), [row, row])
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(tree_runs)).scalar() == 0


@pytest.mark.parametrize("url", ["nonsense", "gopher://x", "sqlite:////no/such/folder/x.db"])
def test_a_database_that_cannot_be_opened_is_named(url):
    with pytest.raises(DatabaseUnusable, match=r"SIGNALBOX_DATABASE_URL|see that it runs") as raised:
        open_database(url)
    assert "\n" not in str(raised.value)


def test_a_damaged_file_is_no_database(tmp_path):
    (tmp_path / "x.db").write_bytes(b"SQLite format 2" * 100)
    with pytest.raises(DatabaseUnusable, match="restore it from a backup"):
        open_database(f"sqlite:///{tmp_path}/x.db")
