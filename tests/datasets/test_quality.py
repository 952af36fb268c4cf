"""Findings over many rows: each kind beside rows that have nothing, and what is done about it."""

import random

import pytest

from app.core.language import language_of
from app.datasets.examine import Examiner, looks_misread
from app.datasets.formats import parse
from app.datasets.labels import label_issues
from app.datasets.quality import apply, drop_repeated, find_all, resembled
from app.datasets.settings import QualitySettings

PLAIN = QualitySettings(personal="skip", embedding="skip")
TEXT = "the bank opens every morning and closes when people go home because nobody wants to wait any longer"
WORDS = TEXT.split()


def rows_of(*records):
    return [row for record in records for row in parse(record)]


def pair(question, answer="Yes."):
    return {"question": question, "answer": answer}


def plain_rows(num, seed=0):
    rng = random.Random(seed)
    return [pair(" ".join(rng.choices(WORDS, k=20)) + f" {n}?", " ".join(rng.choices(WORDS, k=20))) for n in range(num)]


def findings_of(rows, *, settings=PLAIN, suites=None):
    examined = Examiner(settings, suites or {})(rows)
    found = find_all(rows, examined, resembled(examined, settings), settings=settings)
    return examined, found


def names(found, place):
    return [each["finding"] for each in found.of_row[place]]


def test_exact_duplicates_are_told_by_their_text_but_for_space():
    rows = rows_of(pair("The fee?"), pair("The  fee?\n"), pair("the fee?"), {"text": "The fee?"})
    kept, rejects = drop_repeated(rows, [1, 2, 3, 4])
    assert kept == [0, 2, 3]
    assert [(row["place"], row["stage"]) for row in rejects] == [(2, "exact_duplicate")]
    assert rows[0]["row_id"] in rejects[0]["reason"]


SUITE = {"mine@1": [{"question": "Who chairs the board of this small bank?", "answers": ["Ruth"]}]}
LONG = "When a member leaves the cooperative before the end of the year who pays the remaining fee"
SUITE13 = {"mine@1": [{"question": LONG + "?", "answers": ["Nobody"]}]}


@pytest.mark.parametrize(
    ("record", "finding", "suites"),
    [
        (pair("What is " + "\ufffd" * 3 + " here?"), "encoding", None),
        (pair("Le cafÃ© est fermÃ© aujourd'hui, dÃ©jÃ ?"), "encoding", None),
        (pair("Où se trouve la bibliothèque municipale de cette ville, et à quelle heure ouvre-t-elle ?"), "language",
         None),
        (pair("word " * 4000), "length", None),
        (pair("who chairs the board of this small bank", "ruth"), "contamination", SUITE),
        (pair("Tell me: " + LONG, "It depends"), "contamination", SUITE13),
        ({"text": "It is asked often. " + LONG + "."}, "contamination", SUITE13),
    ],
)  # fmt: skip
def test_one_odd_row_among_plain_ones(record, finding, suites):
    rows = rows_of(*plain_rows(30), record)
    _, found = findings_of(rows, suites=suites)
    assert finding in names(found, 30)
    assert [place for place in range(30) if finding in names(found, place)] == []


@pytest.mark.parametrize(
    "text",
    ["", "plain", "Ã©tÃ©", "x" * 50 + " cafÃ© " + "y" * 50, "Â§ 1", "été Ã ", "日本語" * 40, "naïve “quoted” … fine",
     "a Â\u2013 b", "â€œodd", "x Ã©", "Â 1", "a\nÂ 1"],
)  # fmt: skip
def test_only_letters_beyond_ascii_need_a_look_for_misreading(text):
    from ftfy.badness import is_bad

    assert looks_misread(text) == is_bad(text)


def test_another_answer_to_a_suite_s_short_question_is_no_contamination():
    _, found = findings_of(rows_of(pair("Who chairs the board of this small bank?", "Jane")), suites=SUITE)
    assert names(found, 0) == []


def test_near_duplicates_and_other_answers():
    first = plain_rows(5)
    near = {**first[2], "answer": first[2]["answer"] + " Today."}
    rows = rows_of(*first, near)
    _, found = findings_of(rows)
    assert set(names(found, 5)) == {"near_duplicate", "other_answer"}
    assert rows[2]["row_id"] in found.of_row[5][0]["detail"]


def test_rows_that_share_a_context_or_a_question_alone_are_no_near_duplicates():
    context = " ".join(plain_rows(1)[0]["question"].split() * 4)
    ask = "Summarise this text in one sentence for a reader who has no time."
    same, other = {"instruction": ask, "input": context}, {"instruction": ask, "input": "Rain falls on hills. " * 9}
    rows = rows_of(
        {**pair("Who pays the fee?", "The member."), "context": context},
        {**pair("When is it due?", "In March."), "context": context},
        {**same, "output": "It is about a bank."},
        {**other, "output": "It is about a bank."},
        {**same, "output": "It is about a bank!"},
    )
    _, found = findings_of(rows)
    assert [place for place in range(5) if "near_duplicate" in names(found, place)] == [4]


def test_what_is_dropped_has_its_reason_and_what_stays_its_findings():
    settings = PLAIN.model_copy(update={"near_duplicates": "drop"})
    first = plain_rows(5)
    rows = rows_of(*first, {**first[2], "answer": first[2]["answer"] + " Today."}, pair("Fee \ufffd of this bank?"))
    examined, found = findings_of(rows, settings=settings)
    kept, rejects, noted = apply(rows, examined, list(range(7)), found)
    assert [(row["place"], row["stage"]) for row in rejects] == [(5, "near_duplicate")]
    assert len(kept) == 6
    about = [(each["finding"], each["action"]) for each in noted if each["row_id"] == rows[6]["row_id"]]
    assert ("encoding", "report") in about


def test_masked_rows_have_new_ids_and_repeat_none():
    settings = QualitySettings(personal="mask", embedding="skip")
    record = {
        "messages": [
            {"role": "user", "content": "I am a@example.org"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "a@example.org."},
        ]
    }
    other = {"messages": [{"role": "user", "content": "I am b@example.org"}, *record["messages"][1:3],
                          {"role": "assistant", "content": "b@example.org."}]}  # fmt: skip
    rows = rows_of(record, other, {"prompt": "Mail of Jo?", "completion": "jo@example.org", "user": "jo@example.org"})
    examined, found = findings_of(rows, settings=settings)
    kept, rejects, noted = apply(rows, examined, [1, 2, 3], found)
    assert "example.org" not in str(kept) + str(noted)
    assert [row["stage"] for row in rejects] == ["exact_duplicate"]
    assert kept[1]["answers"] == [kept[1]["answer"]] == ["<EMAIL_ADDRESS>"]
    assert not {row["row_id"] for row in kept} & {row["row_id"] for row in rows}


@pytest.mark.parametrize(
    ("text", "language"),
    [("The office is closed on Mondays and opens again on Tuesday.", "en"), ("ok", "und"), ("1 + 2 = 3 " * 9, "und"),
     ("Das Büro ist montags geschlossen und öffnet erst am Dienstag wieder.", "de")],
)  # fmt: skip
def test_languages(text, language):
    assert language_of(text, min_letters=20) == language


@pytest.mark.data
def test_most_flipped_labels_are_found_and_few_others(shared_data):
    import gzip
    import json

    with gzip.open(shared_data / "banking77" / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    labels = sorted({row["label"] for row in rows})[:5]
    rows = [row for row in rows if row["label"] in labels]
    rng = random.Random(0)
    flipped = set(rng.sample(range(len(rows)), len(rows) // 20))
    given = [
        rng.choice([label for label in labels if label != row["label"]]) if n in flipped else row["label"]
        for n, row in enumerate(rows)
    ]
    found = {place for place, _, _ in label_issues([row["text"] for row in rows], given, min_rows=10)}
    assert len(found & flipped) / len(flipped) > 0.6
    assert len(found & flipped) / len(found) > 0.9


def test_few_rows_of_a_label_are_not_judged():
    assert label_issues(["a b", "c d"] * 3, ["x", "y"] * 3, min_rows=10) == []


def test_a_suite_s_question_in_almost_its_words_is_close():
    settings = PLAIN.model_copy(update={"embedding": "drop"})
    rows = rows_of(pair("Who chairs the board of the small bank?", "Jane"), pair("When does the office open?", "At 9"))
    examined, found = findings_of(rows, settings=settings, suites=SUITE)
    _, rejects, _ = apply(rows, examined, [1, 2], found)
    assert [(row["place"], row["stage"]) for row in rejects] == [(1, "embedding")]
    assert "mine@1" in rejects[0]["reason"]
