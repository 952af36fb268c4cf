"""The tree of RFC 9162: published vectors, then properties with tampered proofs."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger import merkle

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]


def tree(hashes):
    """Every complete subtree by position, made in batches of uneven size."""
    nodes: dict[tuple[int, int], bytes] = {}
    size = 0
    while size < len(hashes):
        batch = hashes[size : size + 1 + size % 5]
        nodes.update(list(merkle.grow(size, batch, nodes.__getitem__)))
        size += len(batch)
    return nodes


def numbered(size):
    return [merkle.leaf_hash(str(index).encode()) for index in range(size)]


@pytest.mark.parametrize(("size", "root"), enumerate(VECTORS["roots"]))
def test_known_roots(size, root):
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert merkle.root_of(hashes).hex() == root
    assert merkle.root(size, tree(hashes).__getitem__).hex() == root


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=str)
def test_known_inclusion_proofs(vector):
    nodes = tree([merkle.leaf_hash(leaf) for leaf in LEAVES])
    proof = merkle.inclusion_proof(vector["index"], vector["size"], nodes.__getitem__)
    assert [step.hex() for step in proof] == vector["proof"]


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=str)
def test_known_consistency_proofs(vector):
    nodes = tree([merkle.leaf_hash(leaf) for leaf in LEAVES])
    proof = merkle.consistency_proof(vector["old_size"], vector["new_size"], nodes.__getitem__)
    assert [step.hex() for step in proof] == vector["proof"]


def test_a_leaf_is_not_an_inner_node():
    left, right = numbered(2)
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


def test_a_proof_reads_few_nodes():
    nodes = tree(numbered(1000))
    read = []
    merkle.inclusion_proof(637, 1000, lambda position: read.append(position) or nodes[position])
    assert len(read) <= 2 * 10


@given(st.data())
def test_inclusion_holds_and_every_tampering_is_refused(data):
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    hashes = numbered(size)
    root = merkle.root_of(hashes)
    proof = merkle.inclusion_proof(index, size, tree(hashes).__getitem__)
    good = {"leaf": hashes[index], "index": index, "size": size, "proof": proof, "root": root}

    def holds(**changed):
        values = {**good, **changed}
        return merkle.verify_inclusion(values.pop("leaf"), **values)

    assert holds()
    assert not holds(leaf=merkle.leaf_hash(b"other"))
    assert not holds(root=merkle.leaf_hash(b"other"))
    assert not holds(index=size)
    assert not holds(index=-1)
    assert not holds(proof=[*proof, root])
    other = data.draw(st.integers(0, size - 1))
    assert holds(index=other) == (other == index)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        assert not holds(proof=[*proof[:at], flipped, *proof[at + 1 :]])
        assert not holds(proof=proof[:at] + proof[at + 1 :])


@given(st.data())
def test_consistency_holds_and_every_tampering_is_refused(data):
    new_size = data.draw(st.integers(1, 70))
    old_size = data.draw(st.integers(0, new_size))
    hashes = numbered(new_size)
    proof = merkle.consistency_proof(old_size, new_size, tree(hashes).__getitem__)
    good = {
        "old_size": old_size,
        "new_size": new_size,
        "old_root": merkle.root_of(hashes[:old_size]),
        "new_root": merkle.root_of(hashes),
        "proof": proof,
    }
    assert merkle.verify_consistency(**good)
    wrong = merkle.leaf_hash(b"other")
    assert not merkle.verify_consistency(**{**good, "old_root": wrong})
    assert not merkle.verify_consistency(**{**good, "proof": [*proof, wrong]})
    assert not merkle.verify_consistency(**{**good, "old_size": new_size + 1})
    if old_size:
        assert not merkle.verify_consistency(**{**good, "new_root": wrong})
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not merkle.verify_consistency(**{**good, "proof": proof[:at] + proof[at + 1 :]})
        assert not merkle.verify_consistency(**{**good, "proof": [*proof[:at], wrong, *proof[at + 1 :]]})


def test_a_rewritten_history_has_no_consistency_proof():
    old, new = numbered(6), numbered(13)
    new[2] = merkle.leaf_hash(b"rewritten")
    proof = merkle.consistency_proof(6, 13, tree(new).__getitem__)
    assert not merkle.verify_consistency(
        old_size=6, new_size=13, old_root=merkle.root_of(old), new_root=merkle.root_of(new), proof=proof
    )


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_proof_of_nothing_is_refused(index, size):
    with pytest.raises(ValueError, match="not in a tree"):
        merkle.inclusion_spans(index, size)


@pytest.mark.parametrize(("old_size", "new_size"), [(-1, 3), (4, 3)])
def test_a_proof_backwards_is_refused(old_size, new_size):
    with pytest.raises(ValueError, match="no proof leads"):
        merkle.consistency_spans(old_size, new_size)
