"""Facts to rows: splits, withheld facts, distinct wordings, and the same rows for the same fact."""

import re
from collections import Counter

import pytest

from app.demo.facts import facts
from app.synthesis.rows import ExtractedFact, is_withheld, rows_from_facts, unanswerable_rows
from app.synthesis.settings import SynthesisSettings
from app.synthesis.wordings import FRAMES, all_frames

ALL = [ExtractedFact(fact.entity, fact.attribute, fact.value, chunk_id="c") for fact in facts(1)]
FEE = ExtractedFact("Harbour Account", "annual fee", "12 euros", chunk_id="c")


def test_a_fact_has_the_wordings_that_the_settings_ask_for():
    settings = SynthesisSettings(
        num_train_wordings=50, num_calibration_wordings=3, num_heldout_wordings=4, withheld_fact_share=0
    )
    rows = rows_from_facts([FEE], settings)
    assert Counter(row["split"] for row in rows) == {"train": 50, "calibration": 3, "heldout": 4}
    assert len({row["question"] for row in rows}) == 57


def test_no_question_stands_in_two_splits():
    rows = rows_from_facts(ALL, SynthesisSettings())
    by_split = {split: {row["question"].lower() for row in rows if row["split"] == split} for split in FRAMES}
    assert not by_split["train"] & by_split["calibration"]
    assert not by_split["train"] & by_split["heldout"]
    assert not by_split["calibration"] & by_split["heldout"]


def test_frames_of_two_splits_share_no_carrier():
    carriers = {
        split: {" ".join(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", "", text).lower())) for text in all_frames(split)}
        for split in FRAMES
    }
    assert not carriers["train"] & (carriers["calibration"] | carriers["heldout"])
    assert not carriers["calibration"] & carriers["heldout"]


def test_withheld_facts_are_few_and_have_no_train_row():
    settings = SynthesisSettings()
    withheld = {fact.key for fact in ALL if is_withheld(fact, settings)}
    assert 0 < len(withheld) <= 0.05 * len(ALL)
    rows = [row for row in rows_from_facts(ALL, settings) if (row["subject"].lower(), row["attribute"]) in withheld]
    assert {row["split"] for row in rows} == {"calibration"}


def test_every_question_names_subject_and_attribute():
    for row in rows_from_facts(ALL, SynthesisSettings(noise_share=0.9)):
        question = row["question"].lower()
        assert row["subject"].lower() in question, row
        assert row["attribute"] in question, row


def test_a_fact_keeps_its_rows_when_others_come_and_go():
    settings = SynthesisSettings()
    alone = rows_from_facts([FEE], settings)
    among = [
        row for row in rows_from_facts([*ALL, FEE], settings) if row["row_id"] in {each["row_id"] for each in alone}
    ]
    assert {row["row_id"]: row for row in among} == {row["row_id"]: row for row in alone}


def test_another_seed_gives_other_wordings():
    first, second = (rows_from_facts([FEE], SynthesisSettings(seed=seed)) for seed in (0, 1))
    assert {row["question"] for row in first} != {row["question"] for row in second}


@pytest.mark.parametrize(
    ("method", "subject", "question"),
    [
        ("definition", "overdraft", "overdraft"),
        ("section", "Opening an account", "Opening an account"),
        ("cloze", "It costs ____ a year.", "It costs ____ a year."),
    ],
)
def test_fallback_facts_are_asked_about_in_frames_of_their_own(method, subject, question):
    fact = ExtractedFact(subject, "", "an answer", method)
    rows = rows_from_facts([fact], SynthesisSettings(withheld_fact_share=0))
    assert all(question in row["question"] for row in rows)
    assert {row["split"] for row in rows} == {"train", "calibration", "heldout"}


def test_withholding_facts_without_asking_about_them_is_refused():
    with pytest.raises(ValueError, match="num_calibration_wordings"):
        SynthesisSettings(num_calibration_wordings=0)


def test_unanswerable_questions_ask_for_what_no_fact_says():
    settings = SynthesisSettings(unanswerable_share=0.5)
    rows = unanswerable_rows(ALL, settings)
    known = {fact.key for fact in ALL}
    asked = {(row["subject"].casefold(), row["attribute"].casefold()) for row in rows}
    assert 0.3 * len(ALL) < len(asked) < 0.6 * len(ALL)
    assert not asked & known
    assert {(row["split"], tuple(row["answers"]), row["method"]) for row in rows} == {
        ("calibration", (), "unanswerable")
    }
    assert not unanswerable_rows(ALL, SynthesisSettings(unanswerable_share=0))
