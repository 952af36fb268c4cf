"""Fallback questions over arbitrary text."""

import pytest

from app.synthesis.fallback import fallback_facts


def found(text, *, heading=None):
    return [
        (method, asked, answer)
        for asked, method, answer in fallback_facts([text], heading=heading, max_sentence_words=30)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Actinomycosis is a chronic bacterial infection.", ("Actinomycosis", "a chronic bacterial infection")),
        ("The prostate is a gland in the body.", ("prostate", "a gland in the body")),
        ("Overdrafts are the debts on an account.", ("Overdrafts", "the debts on an account")),
    ],
)
def test_definitions_are_found(text, expected):
    assert found(text) == [("definition", *expected)]


@pytest.mark.parametrize("text", ["This is a good day for all.", "It is the end of it all.", "Too short."])
def test_pronouns_and_scraps_define_nothing(text):
    assert found(text) == []


def test_a_number_leaves_a_gap():
    assert found("They walked about 40 miles before it rained.") == [
        ("cloze", "They walked about ____ before it rained.", "40 miles")
    ]


def test_a_section_answers_with_its_first_sentence():
    text = "Bring your papers to the counter. Then wait there."
    assert found(text, heading="Opening an account") == [
        ("section", "Opening an account", "Bring your papers to the counter.")
    ]
    assert found(text, heading="Overview") == found(text, heading="2024") == []
