"""The metadata database: SQLite (WAL) by default, PostgreSQL by URL.

Guarantees: ``write`` transactions run one at a time (``BEGIN IMMEDIATE`` on SQLite; on PostgreSQL an advisory lock held
to the end of the transaction), so that any number of processes may append to the ledger. A reader is never blocked.
Not guaranteed: fairness between waiting writers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Select, Table, create_engine, event, insert, inspect, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.errors import SignalboxError

BUSY_TIMEOUT_S = 60
VERSION_TABLE = "signalbox_version"
HEAD = "0004"
CACHE_KIB = 65_536
WAL_PAGES = 16_384
"""Indexes of digests are written all over: a page is copied from the log into the file once for many batches."""
READ_ROWS = 10_000
WRITER_LOCK = 0x5167_0B0C


class DatabaseUnusable(SignalboxError):
    """The metadata database cannot be opened: see that it runs and that $SIGNALBOX_DATABASE_URL names it."""


class Database:
    """One database by its SQLAlchemy URL; engines are made on first use, per process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __reduce__(self) -> tuple[type["Database"], tuple[str]]:
        return Database, (self.url,)

    @cached_property
    def engine(self) -> Engine:
        """The SQLAlchemy engine."""
        if not self.url.startswith("sqlite"):
            return _server_engine(self.url)
        engine = create_engine(self.url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        return engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one consistent state."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The one write transaction; committed at the end of the block, rolled back when the block raises."""
        with self.engine.connect() as connection, connection.begin():
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
            yield connection

    def migrate(self) -> "Database":
        """Bring the tables up to date with Alembic; does nothing when they are. Safe in several processes at once."""
        if self._revision() != HEAD:
            with self.write() as connection:
                _upgrade(connection)
        return self

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table(VERSION_TABLE):
                return None
            return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def open_database(url: str) -> Database:
    """The database of a URL with its tables up to date.

    Raises:
        DatabaseUnusable: it is not there, not ours to use, or damaged.
    """
    database = Database(url)
    try:
        return database.migrate()
    except DatabaseError as error:
        message = f"the database cannot be opened ({error.orig}): see that it runs, or restore it from a backup"
        raise DatabaseUnusable(message) from error


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """A connection whose queries all see the same state, while others go on writing."""
    sqlite = database.engine.dialect.name == "sqlite"
    options = {} if sqlite else {"isolation_level": "REPEATABLE READ"}
    with database.engine.connect().execution_options(**options) as connection, connection.begin():
        if sqlite:
            connection.exec_driver_sql("BEGIN")
        yield connection


def insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert plain tuples, in the order of the table's columns, by the fastest way that the database's driver has."""
    names = [column.name for column in table.columns]
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})", rows)
    elif connection.dialect.driver == "psycopg" and len(rows) > 1:
        _copy_rows(connection, f"COPY {table.name} ({', '.join(names)}) FROM STDIN", rows)
    else:
        connection.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])


def read_rows(connection: Connection, query: Select[Any]) -> Iterator[Sequence[Any]]:
    """The rows of a query, however many there are, in memory a few thousand at a time."""
    options = {"stream_results": True, "max_row_buffer": READ_ROWS}
    with connection.execute(query, execution_options=options) as result:
        while rows := result.fetchmany(READ_ROWS):
            yield from rows


def _copy_rows(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _server_engine(url: str) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True)
    except (ArgumentError, ImportError) as error:
        message = f"the database's URL cannot be used ({error}): correct $SIGNALBOX_DATABASE_URL, or install its driver"
        raise DatabaseUnusable(message) from error


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where write() says
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"cache_size=-{CACHE_KIB}",
        f"wal_autocheckpoint={WAL_PAGES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
