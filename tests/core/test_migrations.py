"""A ledger of the first release is carried over as it stands; new tables are those that the code declares."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, Table, insert, select

from app.core import database as module
from app.core.database import VERSION_TABLE, Database, open_database
from app.core.schema import metadata
from app.ledger import merkle
from app.ledger.keys import load_or_create
from app.ledger.log import Ledger, Statement, origin_of
from app.ledger.note import Checkpoint, sign_note
from app.ledger.verify import verify
from tests.conftest import on_both


def statements(start, end):
    return [
        Statement(kind="trigger", subject=f"sha256:{index:064x}", name=str(index), time="2026-01-01T00:00:00Z")
        for index in range(start, end)
    ]


def old_ledger(workspace, monkeypatch, sizes):
    """A database as the first release left it: a row for each node, a checkpoint for each of ``sizes``."""
    signer = load_or_create(workspace.keys_dir, "service", "service")
    with monkeypatch.context() as patch:
        patch.setattr(module, "HEAD", "0001")
        database = Database(workspace.database_url).migrate()
    old = MetaData()
    tables = {name: Table(name, old, autoload_with=database.engine) for name in ("leaves", "nodes", "checkpoints")}
    said = statements(0, sizes[-1])
    hashes = [merkle.leaf_hash(each.to_bytes()) for each in said]
    rows = [
        {"leaf_index": index, "kind": each.kind, "subject": each.subject, "leaf": each.to_bytes(), "leaf_hash": value}
        for index, (each, value) in enumerate(zip(said, hashes, strict=True))
    ]
    nodes = [
        {"level": level, "node_index": index, "hash": value}
        for (level, index), value in merkle.grow(0, hashes, {}.__getitem__)
        if level
    ]
    signed = [Checkpoint(origin_of(signer.public), size, merkle.root_of(hashes[:size])) for size in sizes]
    notes = [{"size": each.size, "note": sign_note(each.to_text(), signer)} for each in signed]
    with database.write() as connection:
        for name, values in (("leaves", rows), ("nodes", nodes), ("checkpoints", notes)):
            if values:
                connection.execute(insert(tables[name]), values)
    return signer


@on_both
@pytest.mark.parametrize("sizes", [(1,), (1, 2, 5), (700, 701, 1337)])
def test_an_old_ledger_is_carried_over(any_workspace, monkeypatch, sizes):
    signer = old_ledger(any_workspace, monkeypatch, sizes)
    report = verify(any_workspace)
    assert (report.faults, report.num_leaves, report.num_checkpoints) == ([], sizes[-1], len(sizes))
    ledger = Ledger(open_database(any_workspace.database_url), signer)
    assert [leaf.statement for leaf in ledger.leaves()] == statements(0, sizes[-1])
    ledger.append(statements(sizes[-1], sizes[-1] + 300))
    assert ledger.root() == merkle.root_of([merkle.leaf_hash(leaf.statement.to_bytes()) for leaf in ledger.leaves()])
    assert verify(any_workspace).ok


def test_what_was_changed_before_the_migration_is_found_after_it(any_workspace, monkeypatch):
    old_ledger(any_workspace, monkeypatch, (9,))
    with Database(any_workspace.database_url).write() as connection:
        nodes = Table("nodes", MetaData(), autoload_with=connection)
        connection.execute(nodes.delete().where(nodes.c.level == 2, nodes.c.node_index == 0))
        connection.execute(nodes.update().where(nodes.c.level == 1, nodes.c.node_index == 3).values(hash=bytes(32)))
    kinds = [fault.kind for fault in verify(any_workspace).faults]
    assert sorted(kinds) == ["changed-node", "changed-node", "missing-node"]


@on_both
@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_migrations_end_at_the_tables_that_the_code_declares(any_workspace):
    database = open_database(any_workspace.database_url)
    with database.read() as connection:
        assert {table.name for table in metadata.sorted_tables} <= set(_names(connection))
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        version = Table(VERSION_TABLE, MetaData(), autoload_with=connection)
        assert connection.execute(select(version.c.version_num)).scalars().all() == [module.HEAD]


def _names(connection):
    reflected = MetaData()
    reflected.reflect(connection)
    return reflected.tables
