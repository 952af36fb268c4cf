"""The extractive reader: quotes that make sense alone, cited, or an honest no."""

from dataclasses import dataclass

import pytest

from app.inference.blocks import split_sentences
from app.inference.encoder import Encoder
from app.inference.reader import NOTHING_FOUND, read_extract, statements_of


@dataclass(frozen=True)
class Passage:
    chunk_id: str
    source: str
    heading_path: tuple[str, ...]
    text: str


FEES = Passage(
    "sha256:1",
    "accounts/compared.xlsx",
    ("Current accounts",),
    "Prices for members.\n\n| Account | Annual fee (euros) | Welcome gift |\n| --- | --- | --- |\n"
    "| Harbour Account | 12 | cotton bag |\n| Lantern Account | 24 | reading lamp |",
)
CARD = Passage(
    "sha256:2",
    "cards/sail.md",
    ("Sail Credit Card", "Good to know"),
    "The replacement fee of the Sail Credit Card is 14 euros. Its daily limit is 1,200 euros. Dr. Lund signs for it.",
)
BRANCH = Passage(
    "sha256:3",
    "branches/island.pdf",
    ("Island Branch", "At a glance"),
    "- Manager: Henrik Dahl\n- Opening time: 11:00\n\n"
    "| Feature | Value |\n| --- | --- |\n| Street address | 1 Pier Road |",
)
PASSAGES = [FEES, CARD, BRANCH]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


@pytest.mark.parametrize(
    ("question", "text", "chunk_id"),
    [
        ("What is the annual fee of the Harbour Account?", "Harbour Account — annual fee: 12 euros.", "sha256:1"),
        (
            "Which welcome gift has the Lantern Account?",
            "Lantern Account — welcome gift: reading lamp.",
            "sha256:1",
        ),
        (
            "What is the daily limit of the Sail Credit Card?",
            "Sail Credit Card — Its daily limit is 1,200 euros.",
            "sha256:2",
        ),
        ("Who is the manager of the Island Branch?", "Island Branch — Manager: Henrik Dahl.", "sha256:3"),
        ("Where is the Island Branch, its street address?", "Island Branch — street address: 1 Pier Road.", "sha256:3"),
    ],
)
def test_the_answer_reads_alone_and_names_its_place(encoder: Encoder, question: str, text: str, chunk_id: str):
    extract = read_extract(question, PASSAGES, encoder)
    assert extract.text.startswith(text)
    assert extract.confidence > 0.6
    assert extract.citations[0].chunk_id == chunk_id
    passage = next(passage for passage in PASSAGES if passage.chunk_id == chunk_id)
    assert extract.citations[0].quote in passage.text
    assert (extract.citations[0].source, extract.citations[0].heading_path) == (passage.source, passage.heading_path)


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "How do I bake sourdough bread?",
        "What is the subsidy share of the Sunroof Solar Programme?",
        "",
        "???",
    ],
)
def test_what_the_passages_do_not_say_is_not_answered(encoder: Encoder, question: str):
    extract = read_extract(question, PASSAGES, encoder)
    assert (extract.text, extract.citations) == (NOTHING_FOUND, ())
    assert 0 <= extract.confidence < 0.55


def test_no_passages_give_no_answer(encoder: Encoder):
    assert read_extract("What is the fee?", [], encoder).text == NOTHING_FOUND


def test_an_attribute_that_is_missing_is_not_made_up(encoder: Encoder):
    extract = read_extract("What is the foreign withdrawal surcharge of the Sail Credit Card?", [CARD], encoder)
    stated = read_extract("What is the replacement fee of the Sail Credit Card?", [CARD], encoder)
    assert extract.confidence < stated.confidence
    assert "surcharge" not in extract.text


def test_max_sentences_is_kept(encoder: Encoder):
    extract = read_extract("Sail Credit Card fee and limit", PASSAGES, encoder, max_sentences=1)
    assert len(extract.citations) == 1


def test_every_quote_stands_in_its_passage():
    for passage in PASSAGES:
        assert all(statement.quote in passage.text for statement in statements_of(passage))


def test_abbreviations_do_not_end_sentences():
    assert split_sentences("Dr. Lund signs. He may not. See e.g. Annex 2 (page 3). Done") == [
        "Dr. Lund signs.",
        "He may not.",
        "See e.g. Annex 2 (page 3).",
        "Done",
    ]
