"""Held-out questions: their own wordings, known answers, and traffic of two kinds."""

import re

import pytest

from app.demo.facts import added_facts, facts, unchanged_facts
from app.demo.questions import CARRIERS, OFF_TOPIC_SHARE, accepted_answers, suite_rows, traffic
from app.synthesis.rows import ExtractedFact, rows_from_facts
from app.synthesis.settings import SynthesisSettings
from app.synthesis.wordings import LEADS, NOUN_PHRASES, TAILS, all_frames


def normalised(text):
    """Lower case words without articles: what exact match compares."""
    return " ".join(word for word in re.findall(r"[\w']+", text.lower()) if word not in {"a", "an", "the"})


def carrier(text):
    """A wording with its holes closed."""
    return normalised(re.sub(r"\{\w+\}", " ", text))


@pytest.mark.parametrize(
    ("revision", "subject", "expected"),
    [(1, "all", facts(1)), (1, "old", facts(1)), (1, "new", ()), (2, "all", facts(2)), (2, "old", unchanged_facts()),
     (2, "new", added_facts())],
)  # fmt: skip
def test_a_suite_asks_twice_about_each_fact(revision, subject, expected):
    rows = suite_rows(revision, subject=subject)
    assert len(rows) == len({row["question_id"] for row in rows}) == 2 * len(expected)
    assert {row["subject"] for row in rows} == {fact.entity for fact in expected}


def test_no_held_out_question_is_a_synthetic_one():
    settings = SynthesisSettings(num_train_wordings=60)
    rows = rows_from_facts([ExtractedFact(fact.entity, fact.attribute, fact.value) for fact in facts(2)], settings)
    synthetic = {normalised(row["question"]) for row in rows}
    held_out = {normalised(row["question"]) for row in suite_rows(2, num_wordings=len(CARRIERS))}
    assert len(held_out) == len(CARRIERS) * len(facts(2))
    assert not held_out & synthetic


def test_no_carrier_wording_is_shared_with_a_template():
    composed = {
        carrier(frame.replace("{np}", phrase))
        for split in ("train", "calibration", "heldout")
        for frame in all_frames(split)
        for phrase in NOUN_PHRASES
    }
    adorned = {f"{carrier(lead)} {text}" for text in composed for lead in LEADS}
    tailed = {f"{text} {carrier(tail)}" for text in composed | adorned for tail in TAILS}
    assert not {carrier(text) for text in CARRIERS} & (composed | adorned | tailed)


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ("12 euros", ["12 euros", "€12", "12 EUR", "12 euro"]),
        ("1.2 percent", ["1.2 percent", "1.2%", "1.2 %"]),
        ("Ruth Calder", ["Ruth Calder"]),
    ],
)
def test_other_ways_to_write_an_answer_count(value, answers):
    assert accepted_answers(value) == answers


@pytest.mark.parametrize(("kind", "low", "high"), [("before", 0.0, 0.0), ("after", 0.72, 0.78)])
def test_traffic_shifts_to_the_new_subject(kind, low, high):
    new = {fact.entity for fact in added_facts()}
    rows = traffic(kind, num=4000, seed=3)
    assert low <= sum(row["subject"] in new for row in rows) / len(rows) <= high
    off_topic = sum(row["source"] == "off-topic" for row in rows) / len(rows)
    assert off_topic == pytest.approx(OFF_TOPIC_SHARE, abs=0.015)


def test_traffic_depends_on_its_seed_alone():
    assert traffic("after", num=50, seed=1) == traffic("after", num=50, seed=1)
    assert traffic("after", num=50, seed=1) != traffic("after", num=50, seed=2)
