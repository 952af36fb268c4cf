"""Sentence patterns: what they read, and what they leave alone."""

import pytest

from app.synthesis.sentences import sentence_facts, split_sentences

HARBOUR = ("Harbour Account", "annual fee", "12 euros")


@pytest.mark.parametrize(
    "sentence",
    [
        "The annual fee of the Harbour Account is 12 euros.",
        "The annual fee for the Harbour Account currently stands at 12 euros.",
        "The annual fee of the Harbour Account amounts to 12 euros",
        "The Harbour Account has an annual fee of 12 euros.",
        "For the Harbour Account, the annual fee is set at 12 euros.",
        "With the Harbour Account, an annual fee of 12 euros applies.",
        "An annual fee of 12 euros applies to the Harbour Account.",
        "The Harbour Account's annual fee is 12 euros.",
        "The Harbour Account has 12 euros as its annual fee.",
        "12 euros is the annual fee of the Harbour Account.",
    ],
)
def test_a_fact_is_read_in_many_forms(sentence):
    assert list(sentence_facts(sentence, subject=None)) == [HARBOUR]


@pytest.mark.parametrize(
    "sentence",
    [
        "Members open it at any branch.",
        "The Harbour Account is a current account for members who pay by card.",
        "Our staff will gladly explain what that means for you.",
        "The figure was agreed by the board.",
        "Write to us if anything remains unclear.",
    ],
)
def test_prose_without_an_attribute_gives_no_fact(sentence):
    assert list(sentence_facts(sentence, subject="Harbour Account")) == []


def test_an_attribute_may_hold_of():
    sentence = "The term of office of the Audit Committee is 3 years."
    assert list(sentence_facts(sentence, subject=None)) == [("Audit Committee", "term of office", "3 years")]


@pytest.mark.parametrize("joint", [". Its", " and its", "; its", ", and its"])
def test_its_refers_to_what_was_named_before(joint):
    text = f"The annual fee of the Harbour Account is 12 euros{joint} minimum deposit is 50 euros."
    assert list(sentence_facts(text, subject="Lantern Account"))[1] == (
        "Harbour Account",
        "minimum deposit",
        "50 euros",
    )


def test_its_without_anything_named_is_no_fact():
    assert list(sentence_facts("Its minimum deposit is 50 euros.", subject=None)) == []


def test_numbers_and_abbreviations_end_no_sentence():
    text = "The rate is 3.5 percent, e.g. For loans. Dr. Lund agreed."
    assert split_sentences(text) == ["The rate is 3.5 percent, e.g. For loans.", "Dr. Lund agreed."]
