from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import pytest

from app.core.database import Database
from app.core.workspace import Workspace
from app.monitoring.lease import Lease, LeaseLost, give_back, guard, renew, take

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.fixture
def database(workspace: Workspace) -> Database:
    return Database(workspace.database_url).migrate()


def take_at(database: Database, holder: str, after_s: float = 0.0) -> Lease | None:
    return take(database, "monitor", holder=holder, duration_s=30, now=NOW + timedelta(seconds=after_s))


def race(url: str, holder: str) -> int | None:
    taken = take(Database(url), "monitor", holder=holder, duration_s=30)
    return taken.epoch if taken else None


@pytest.mark.parametrize(
    ("holder", "after_s", "epoch"),
    [("b", 29, None), ("b", 31, 2), ("a", 1, 2)],
    ids=["another holds it", "it expired", "the same holder after a restart"],
)
def test_who_may_take_a_lease(database: Database, holder: str, after_s: float, epoch: int | None) -> None:
    take_at(database, "a")
    taken = take_at(database, holder, after_s)
    assert (taken.epoch if taken else None) == epoch


def test_a_holder_that_was_replaced_can_neither_renew_nor_write(database: Database) -> None:
    old, new = take_at(database, "a"), take_at(database, "b", 31)
    assert old
    assert new
    with pytest.raises(LeaseLost):
        renew(database, old, duration_s=30)
    with pytest.raises(LeaseLost), database.write() as connection:
        guard(connection, old)
    with database.write() as connection:
        guard(connection, new)


def test_renewing_keeps_others_out(database: Database) -> None:
    held = take_at(database, "a")
    assert held
    renew(database, held, duration_s=30, now=NOW + timedelta(seconds=25))
    assert take_at(database, "b", 40) is None


def test_giving_back_lets_another_in_at_once_under_a_higher_epoch(database: Database) -> None:
    held = take(database, "monitor", holder="a", duration_s=30)
    assert held
    give_back(database, held)
    taken = take(database, "monitor", holder="b", duration_s=30)
    assert taken == Lease("monitor", "b", 2)


def test_of_racing_threads_one_gets_the_lease(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        epochs = list(pool.map(lambda number: race(database.url, f"thread-{number}"), range(8)))
    assert sorted(epoch for epoch in epochs if epoch) == [1]


def test_of_racing_processes_one_gets_the_lease(database: Database) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        epochs = list(pool.map(race, [database.url] * 6, [f"process-{number}" for number in range(6)]))
    assert sorted(epoch for epoch in epochs if epoch) == [1]
