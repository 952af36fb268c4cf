"""Attacks on lineage and on the history of production, by somebody who holds the database, or even the service's key.

Each must be refused, or named by ``verify`` with a sentence that says where.
"""

from datetime import timedelta

import pyarrow as pa
import pytest
from sqlalchemy import select, update

from app.core.clock import rfc3339, utc_now
from app.core.digests import digest_bytes
from app.core.parquet import write_rows
from app.core.schema import leaves
from app.governance.history import production_at
from app.ledger import merkle
from app.ledger.faults import Report
from app.ledger.log import Statement
from app.ledger.verify import verify
from app.ledger.verify_lineage import CLOCK_TOLERANCE_S, verify_lineage
from app.ledger.verify_tree import Row

FORGED = digest_bytes(b"a dataset that nobody published")


@pytest.fixture
def chain(registry):
    """A dataset, and a model made from it."""
    dataset = registry.publish("dataset", "handbook", inputs={"d": 1})
    return registry.publish("model", "small", inputs={"m": 1}, parents=[dataset.digest])


def faults(registry):
    return {(fault.kind, fault.where) for fault in verify(registry.workspace).faults}


def rewrite(registry, index, *, whole, **changed):
    """Change a leaf in the database; with ``whole``, its hash too."""
    with registry.database.write() as connection:
        data = connection.execute(select(leaves.c.leaf).where(leaves.c.leaf_index == index)).scalar_one()
        forged = Statement(**{**Statement.from_bytes(data).to_json(), **changed}).to_bytes()
        values = {"leaf": forged} | ({"leaf_hash": merkle.leaf_hash(forged)} if whole else {})
        connection.execute(update(leaves).where(leaves.c.leaf_index == index).values(**values))


def test_nothing_is_found_where_nothing_was_done(registry, chain):
    assert faults(registry) == set()


@pytest.mark.parametrize(
    ("whole", "kind", "where"), [(False, "changed-leaf", "leaf 1"), (True, "wrong-statement", "model")]
)
def test_changed_parents_in_a_leaf_are_named(registry, chain, whole, kind, where):
    rewrite(registry, 1, whole=whole, parents=(FORGED,))
    assert any(found == kind and place.startswith(where) for found, place in faults(registry))


@pytest.mark.parametrize(
    ("payload", "fault"), [("own", "published-twice"), ("", "forged-edge"), (FORGED, "forged-edge")]
)
def test_a_second_leaf_that_gives_a_model_other_parents_is_named(registry, chain, payload, fault):
    payload = chain.digest if payload == "own" else payload
    statement = Statement("model", chain.digest, name="small", parents=(FORGED,), payload=payload)
    registry.ledger.append([statement])
    assert (fault, "leaf 2, model small") in faults(registry)


def test_a_parent_that_came_later_than_its_child_is_named(registry):
    later = registry.store.publish(
        "dataset", None, {"kind": "dataset", "name": "d", "inputs": {}, "parents": [], "facts": {}}
    )
    registry.publish("model", "small", inputs={}, parents=[later])
    registry.publish("dataset", "d", inputs={})
    assert ("bad-parent", "leaf 0, model small") in faults(registry)


def test_a_row_that_is_given_to_another_document_is_named(registry, tmp_path):
    schema = pa.schema([("row_id", pa.string()), ("document_id", pa.string())])
    write_rows(tmp_path / "rows.parquet", [{"row_id": "r", "document_id": "the guilty"}], schema=schema)
    rows = registry.publish("synthetic", "rows", folder=tmp_path, inputs={})
    innocent = [{"row_id": "r", "document_id": "the other!"}]
    write_rows(registry.folder(rows) / "rows.parquet", innocent, schema=schema)
    assert any(kind == "changed-file" and where.endswith("rows.parquet") for kind, where in faults(registry))


def test_a_back_dated_promotion_is_named(registry, chain):
    then = rfc3339(utc_now() - timedelta(days=30))
    registry.ledger.append([Statement("promotion", chain.digest, name="release/assistant", time=then)])
    lied = production_at(registry, utc_now() - timedelta(days=1), name="assistant")
    assert lied["digest"] == chain.digest  # the leaf alone would make history lie
    assert ("back-dated-leaf", "leaf 2, promotion release/assistant") in faults(registry)


def test_a_leaf_from_the_future_is_named_and_not_those_after_it(registry, chain):
    registry.ledger.append([Statement("trigger", FORGED, name="t", time=rfc3339(utc_now() + timedelta(days=30)))])
    for number in range(3):
        registry.publish("dataset", "handbook", inputs={"d": 2 + number})
    assert {where for kind, where in faults(registry) if kind == "back-dated-leaf"} == {"leaf 2, trigger t"}


@pytest.mark.parametrize("time", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00+01:00", "9" * 40])
def test_a_time_that_is_none_is_named(registry, chain, time):
    registry.ledger.append([Statement("trigger", FORGED, name="t", time=time)])
    assert ("bad-time", "leaf 2, trigger t") in faults(registry)


def timed(*offsets_s):
    """Leaves at these seconds after a fixed moment."""
    start = utc_now() - timedelta(days=1)
    times = [rfc3339(start + timedelta(seconds=offset)) for offset in offsets_s]
    return [
        Row(number, "trigger", "t", Statement("trigger", f"t{number}", time=time)) for number, time in enumerate(times)
    ]


FAR = 2 * CLOCK_TOLERANCE_S


@pytest.mark.parametrize(
    ("offsets_s", "named"),
    [
        ((0, 1, 2, 3), []),
        ((0, 0, 0), []),
        ((0, 50, 20, 60), []),
        ((0, FAR, 1, FAR + 1, FAR + 2), [2]),
        ((0, 1, -FAR), [2]),
        ((FAR, 0, 1, 2), [0]),
        ((0, 1, FAR, 2, 3), [2]),
        ((0, FAR, 2 * FAR, 1, 2, 3 * FAR, 4 * FAR), [3, 4]),
    ],
)
def test_the_fewest_leaves_out_of_order_are_named(offsets_s, named):
    report = Report()
    verify_lineage(timed(*offsets_s), report)
    assert [fault.where for fault in report.faults] == [f"leaf {index}, trigger" for index in named]
