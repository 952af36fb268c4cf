"""The fact table: sizes, uniqueness, and what the second revision does to it."""

import pytest

from app.demo.facts import CHANGES, TOPICS_ADDED, TOPICS_AT_FIRST, WITHDRAWN, added_facts, facts, unchanged_facts


@pytest.mark.parametrize(("revision", "num_facts"), [(1, 230), (2, 260)])
def test_a_revision_states_each_fact_once(revision, num_facts):
    keys = [fact.key for fact in facts(revision)]
    assert len(keys) == len(set(keys)) == num_facts


def test_values_are_short():
    assert all(1 <= len(fact.value.split()) <= 4 for fact in facts(2))


def test_every_change_changes_something():
    first = {fact.key: fact.value for fact in facts(1)}
    second = {fact.key: fact.value for fact in facts(2)}
    assert all(first[key] != value == second[key] for key, value in CHANGES.items())
    assert len(CHANGES) == 12


def test_withdrawn_entities_are_gone_and_were_there():
    assert set(WITHDRAWN) <= {fact.entity for fact in facts(1)}
    assert not set(WITHDRAWN) & {fact.entity for fact in facts(2)}


def test_the_added_subject_shares_no_entity_and_no_attribute():
    old_names = {name for topic in TOPICS_AT_FIRST for name in (*topic.rows, *topic.attributes)}
    new_names = {name for topic in TOPICS_ADDED for name in (*topic.rows, *topic.attributes)}
    assert not old_names & new_names
    assert len(added_facts()) == 42


def test_unchanged_facts_hold_in_both_revisions():
    assert set(unchanged_facts()) == set(facts(1)) & set(facts(2))
