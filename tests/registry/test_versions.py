"""Versions are numbered, found by their inputs, and each has a leaf in the ledger."""

import pytest

from app.registry.versions import VersionNotFound


def test_versions_are_numbered_by_name(registry):
    refs = [registry.publish("policy", name, inputs={"n": n}).ref for name, n in [("a", 1), ("a", 2), ("b", 1)]]
    assert refs == ["a@1", "a@2", "b@1"]


def test_the_same_content_is_the_same_version_and_one_leaf(registry):
    first = registry.publish("policy", "a", inputs={"n": 1})
    again = registry.publish("policy", "a", inputs={"n": 1})
    assert (again.ref, again.digest, registry.ledger.size) == (first.ref, first.digest, 1)


def test_a_version_is_found_by_its_inputs_alone(registry):
    made = registry.publish("policy", "a", inputs={"n": 1}, facts={"rows": 3})
    assert registry.find("policy", "a", {"n": 1}).digest == made.digest
    assert registry.find("policy", "a", {"n": 2}) is None
    assert registry.find("policy", "b", {"n": 1}) is None


@pytest.mark.parametrize("ref", ["a", "a@latest", "a@2"])
def test_references_resolve(registry, ref):
    for n in (1, 2):
        made = registry.publish("policy", "a", inputs={"n": n})
    assert registry.get("policy", ref).digest == made.digest
    assert registry.get("policy", made.digest).ref == "a@2"


@pytest.mark.parametrize("ref", ["a@9", "b", "a@production", "sha256:" + "0" * 64])
def test_what_is_not_there_is_named_with_the_nearest(registry, ref):
    registry.publish("policy", "a", inputs={"n": 1})
    with pytest.raises(VersionNotFound, match="a@1"):
        registry.get("policy", ref)


def test_a_leaf_names_its_parents(registry):
    parent = registry.publish("policy", "a", inputs={"n": 1})
    child = registry.publish("verdict", "v", inputs={"n": 1}, parents=[parent.digest])
    leaf = list(registry.ledger.leaves())[-1]
    assert (leaf.statement.subject, leaf.statement.parents) == (child.digest, (parent.digest,))
