"""The log: batches, transactions, proofs from stored nodes, several writers at once."""

import contextlib

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from app.core.database import Database
from app.core.digests import canonical_json, digest_bytes
from app.core.schema import tree_runs
from app.ledger import merkle
from app.ledger.keys import Signer
from app.ledger.log import Ledger, NoSuchLeaf, NotAStatement, Statement, open_ledger
from app.ledger.note import read_checkpoint
from app.ledger.tree import NodeMissing
from tests.conftest import on_both


def statement(number, kind="document"):
    return Statement(kind=kind, subject=digest_bytes(str(number).encode()), name=f"n{number}", time="t")


@pytest.fixture
def ledger(any_workspace):
    return open_ledger(any_workspace)


@on_both
def test_an_empty_ledger(ledger):
    assert ledger.size == 0
    assert ledger.root() == merkle.EMPTY_ROOT
    assert read_checkpoint(ledger.checkpoint(), [ledger.signer.public]).size == 0
    assert ledger.append([]) == []


@on_both
def test_indexes_roots_and_checkpoints_follow_every_batch(ledger):
    hashes = []
    for length in (1, 2, 5, 1, 8):
        batch = [statement(len(hashes) + offset) for offset in range(length)]
        assert ledger.append(batch) == list(range(len(hashes), len(hashes) + length))
        hashes += [merkle.leaf_hash(each.to_bytes()) for each in batch]
        checkpoint = read_checkpoint(ledger.checkpoint(), [ledger.signer.public])
        assert (checkpoint.size, checkpoint.root) == (len(hashes), merkle.root_of(hashes))
    assert [leaf.statement for leaf in ledger.leaves()] == [statement(number) for number in range(17)]


@on_both
def test_leaves_by_kind_and_subject(ledger):
    ledger.append([statement(0), statement(1, "model"), statement(2)])
    assert [leaf.index for leaf in ledger.leaves("document")] == [0, 2]
    assert [leaf.index for leaf in ledger.leaves(subject=statement(1).subject)] == [1]


def test_a_subject_is_found_by_its_index(workspace):
    """In every block of leaves; without the index a look-up would read the whole log."""
    ledger = open_ledger(workspace)
    ledger.append([statement(0)] * 16_384 + [statement(1), statement(2), statement(1)])
    assert [leaf.index for leaf in ledger.leaves(subject=statement(1).subject)] == [16_384, 16_386]
    assert list(ledger.leaves("model", subject=statement(1).subject)) == []
    asked = []
    with ledger.database.read() as connection:
        connection.connection.driver_connection.set_trace_callback(asked.append)
    assert next(ledger.leaves(subject=statement(0).subject)).index == 0
    with ledger.database.read() as connection:
        connection.connection.driver_connection.set_trace_callback(None)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[-1]}").all()
    assert "USING INDEX ix_leaves_subject" in str(plan)


@on_both
def test_a_batch_belongs_to_the_caller_s_transaction(ledger):
    with contextlib.suppress(ZeroDivisionError), ledger.database.write() as connection:
        assert ledger.append([statement(0)], connection=connection) == [0]
        assert 1 / 0
    assert ledger.size == 0
    assert ledger.append([statement(1)]) == [0]


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_proofs_from_the_database_hold(tmp_path_factory, data):
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('log')}/test.db").migrate()
    ledger = Ledger(database, Signer.generate("service", "service"))
    for length in data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6)):
        ledger.append([statement(number) for number in range(length)])
    size = data.draw(st.integers(1, ledger.size))
    index = data.draw(st.integers(0, size - 1))
    leaf = merkle.leaf_hash([each.statement.to_bytes() for each in ledger.leaves()][index])
    proof = ledger.inclusion_proof(index, size)
    assert merkle.verify_inclusion(leaf, index=index, size=size, proof=proof, root=ledger.root(size))
    assert merkle.verify_consistency(
        old_size=size,
        new_size=ledger.size,
        old_root=ledger.root(size),
        new_root=ledger.root(),
        proof=ledger.consistency_proof(size),
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda ledger: ledger.inclusion_proof(3),
        lambda ledger: ledger.inclusion_proof(0, 4),
        lambda ledger: ledger.consistency_proof(4),
        lambda ledger: ledger.root(4),
    ],
)
def test_a_leaf_that_is_not_there_is_named(ledger, ask):
    ledger.append([statement(number) for number in range(3)])
    with pytest.raises(NoSuchLeaf, match="ask for"):
        ask(ledger)


@on_both
def test_a_lost_node_stops_appends_and_says_so(ledger):
    ledger.append([statement(number) for number in range(4)])
    with ledger.database.write() as connection:
        connection.execute(delete(tree_runs))
    with pytest.raises(NodeMissing, match="signalbox verify"):
        ledger.append([statement(4)])


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"1", b'{"kind": "x"}', statement(1).to_bytes() + b" "])
def test_what_is_not_a_statement_is_refused(data):
    with pytest.raises(NotAStatement, match="verify"):
        Statement.from_bytes(data)


@given(st.builds(Statement, *[st.text()] * 3, st.lists(st.text()).map(tuple), *[st.text()] * 3))
def test_the_hand_written_bytes_are_rfc_8785(whole):
    try:
        expected = canonical_json(whole.to_json())
    except rfc8785.CanonicalizationError:
        with pytest.raises(NotAStatement, match="text only"):
            whole.to_bytes()
        return
    assert whole.to_bytes() == expected
    assert Statement.from_bytes(expected) == whole


@pytest.mark.parametrize("value", [1, None, ["x"], True, 1.5, {}])
@pytest.mark.parametrize("name", ["kind", "subject", "time"])
def test_a_statement_of_other_types_is_refused(name, value):
    with pytest.raises(NotAStatement):
        Statement.from_bytes(canonical_json({**statement(1).to_json(), name: value}))


@pytest.mark.parametrize("mark", ["\x7f", "\u2028", "\U0001f600", "\ufeff", "\\", '"', "\n", "\x00", "\x1f"])
def test_the_quick_reader_and_the_slow_one_agree(mark):
    whole = Statement(kind="model", subject=mark, name=f"a{mark}b", parents=(mark, "x"))
    assert Statement.from_bytes(whole.to_bytes()) == whole
    spelled = whole.to_bytes().replace(b'"a', b'"\\u0061')
    with pytest.raises(NotAStatement):
        Statement.from_bytes(spelled)


def test_a_statement_reads_back():
    whole = Statement(kind="model", subject="sha256:1", name="small", parents=("sha256:2",), payload="sha256:1")
    assert Statement.from_bytes(whole.to_bytes()) == whole


@on_both
def test_a_key_is_registered_once(ledger):
    verifier = Signer.generate("jane", "approver").public
    ledger.register_key(verifier)
    ledger.register_key(verifier)
    assert [leaf.statement.name for leaf in ledger.leaves("key")] == [verifier.vkey]
