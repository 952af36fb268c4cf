"""Proofs as files: they hold with the public key alone, and every tampering is refused."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.digests import canonical_json, digest_bytes
from app.ledger.keys import Signer
from app.ledger.log import NoSuchLeaf, Statement, open_ledger
from app.ledger.proofs import ProofRefused, find_leaf, prove_consistency, prove_inclusion, read_proof
from tests.conftest import on_both

SIZES = (1, 2, 7, 8, 300)
STRANGER = Signer.generate("stranger", "service").public


def statement(number):
    return Statement(kind="trigger", subject=digest_bytes(str(number).encode()), name=f"n{number}", time="t")


def filled(workspace):
    ledger = open_ledger(workspace)
    for before, size in zip((0, *SIZES), SIZES, strict=False):
        ledger.append([statement(number) for number in range(before, size)])
    return ledger


@pytest.fixture
def ledger(workspace):
    return filled(workspace)


@on_both
def test_every_proof_holds_offline(any_workspace):
    ledger = filled(any_workspace)
    verifier = ledger.signer.public
    for size in SIZES:
        for index in {0, size // 2, size - 1}:
            proof = read_proof(prove_inclusion(ledger, index, size=size).to_bytes())
            assert proof.check(verifier).size == size
            assert proof.statement == statement(index)
        with ledger.database.read():
            kept = prove_inclusion(ledger, 0, size=size).checkpoint
        assert read_proof(prove_consistency(ledger, size).to_bytes()).check(verifier, kept=kept).size == 300


def test_a_proof_is_small_and_canonical(ledger):
    proof = prove_inclusion(ledger, 299)
    assert proof.to_bytes() == canonical_json(proof.to_json())
    assert len(proof.to_bytes()) < 2000
    growth = prove_consistency(ledger, 7)
    assert growth.to_bytes() == canonical_json(growth.to_json())


def variants(values):
    """Every proof that differs from a whole one in one place."""
    for at in range(len(values["hashes"])):
        hashes = list(values["hashes"])
        flipped = ("A" if hashes[at][0] != "A" else "B") + hashes[at][1:]
        yield {**values, "hashes": [*hashes[:at], flipped, *hashes[at + 1 :]]}
        yield {**values, "hashes": hashes[:at] + hashes[at + 1 :]}
    yield {**values, "hashes": [*values["hashes"], values["hashes"][0]]}
    lines = values["checkpoint"].split("\n")
    for at in (0, 1, 2):
        yield {**values, "checkpoint": "\n".join([*lines[:at], lines[at] + "1", *lines[at + 1 :]])}
    signature = lines[4][:-6] + ("AAAAAA" if lines[4][-6:] != "AAAAAA" else "BBBBBB")
    yield {**values, "checkpoint": "\n".join([*lines[:4], signature, ""])}


def test_every_tampered_inclusion_proof_is_refused(ledger):
    values = prove_inclusion(ledger, 5).to_json()
    leaf = values["leaf"]
    others = [{**values, "index": 4}, {**values, "leaf": {**leaf, "actor": "nobody"}}]
    for changed in [*variants(values), *others]:
        with pytest.raises(ProofRefused):
            read_proof(canonical_json(changed)).check(ledger.signer.public)
    with pytest.raises(ProofRefused, match="not signed by"):
        read_proof(canonical_json(values)).check(Signer.generate("service", "service").public)


def test_every_tampered_consistency_proof_is_refused(ledger):
    kept, other = (prove_inclusion(ledger, 0, size=size).checkpoint for size in (7, 2))
    values = prove_consistency(ledger, 7).to_json()
    for changed in [*variants(values), {**values, "old_size": 8}]:
        with pytest.raises(ProofRefused):
            read_proof(canonical_json(changed)).check(ledger.signer.public, kept=kept)
    with pytest.raises(ProofRefused, match="does not begin with"):
        read_proof(canonical_json(values)).check(ledger.signer.public, kept=other)


@given(st.recursive(st.none() | st.integers() | st.text() | st.booleans(), lambda each: st.lists(each), max_leaves=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_no_hostile_file_raises_anything_else(ledger, value):
    whole = prove_inclusion(ledger, 0).to_json()
    for name in (*whole, ""):
        with pytest.raises(ProofRefused):
            read_proof(json.dumps({**whole, name: value} if name else value)).check(
                Signer.generate("a", "auditor").public
            )


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[1]", b"[" * 100_000])
def test_what_is_no_proof_is_refused(data):
    with pytest.raises(ProofRefused, match="not a proof"):
        read_proof(data)


def test_a_leaf_by_its_digest_or_index(ledger):
    assert find_leaf(ledger, statement(211).subject) == 211
    assert find_leaf(ledger, "17") == 17
    for wrong in (digest_bytes(b"nothing"), "x", "-1", "٣"):
        with pytest.raises(NoSuchLeaf):
            find_leaf(ledger, wrong)


def test_what_was_not_signed_cannot_be_proven(ledger):
    for ask in (
        lambda: prove_inclusion(ledger, 300),
        lambda: prove_inclusion(ledger, 7, size=7),
        lambda: prove_inclusion(ledger, 0, size=5),
        lambda: prove_consistency(ledger, 301),
        lambda: prove_consistency(ledger, 3, new_size=2),
    ):
        with pytest.raises(NoSuchLeaf, match="ask for"):
            ask()
