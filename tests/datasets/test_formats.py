"""Formats: what each is read as, that it comes back, and what is no row with the reason why."""

import json
import re

import pytest

from app.datasets.formats import FORMATS, UnknownFormat, detect, format_of, parse
from app.datasets.instructlab import write_qna
from app.datasets.messages import BadRow

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Fee?"},
    {"role": "assistant", "content": "Five"},
]
CHOICE = {"message": {"role": "assistant", "content": "Five"}, "finish_reason": "stop"}
REQUEST = {"request": {"messages": TURNS[3:4]}, "response": {"choices": [CHOICE]}, "request_id": "r1"}
BATCH = {"custom_id": "b1", "request": {"body": REQUEST["request"]}}
BATCH |= {"response": {"status_code": 200, "body": REQUEST["response"]}}
QNA = {"path": "skills/fees", "seed_examples": [{"question": "Fee?", "answer": "Five", "context": "Fees are low."}]}
QNA3 = {
    "path": "knowledge/fees",
    "version": 3,
    "domain": "money",
    "seed_examples": [
        {"context": "Fees are low.", "questions_and_answers": [{"question": "Fee?", "answer": "5"}] * 1},
        {"context": "Dues are high.", "questions_and_answers": [{"question": "Due?", "answer": "9"}]},
    ],
}
RECORDS = [
    ({"messages": TURNS}, "messages", {"question": "Fee?", "answer": "Five", "history": TURNS[:3]}),
    ({"messages": TURNS, "unmask": True}, "messages", {"unmask": True}),
    ({"messages": [{"role": "pretraining", "content": "All."}]}, "messages", {"form": "text", "text": "All."}),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "messages", {"answer": "b"}),
    ({"instruction": "Add", "input": "1, 2", "output": "3"}, "alpaca", {"question": "Add\n\n1, 2", "context": "1, 2"}),
    ({"instruction": "Add", "output": "3"}, "alpaca", {"question": "Add", "context": ""}),
    ({"prompt": "Fee?", "completion": "Five"}, "pairs", {"question": "Fee?", "answer": "Five"}),
    ({"question": "Fee?", "answer": "Five", "doc_id": "d"}, "pairs", {"document": "d"}),
    ({"context": "Low.", "question": "Fee?", "answer": "5"}, "pairs", {"question": "Low.\n\nFee?"}),
    ({"document": "Running text."}, "document", {"form": "text", "text": "Running text."}),
    ({"text": "Running text.", "id": 7}, "document", {"origin_id": "7"}),
    ({"text": "Where is it?", "label": "arrival"}, "labelled", {"question": "Where is it?", "label": "arrival"}),
    ({"tokens": ["Ruth", "chairs"], "tags": ["B-P", "O"]}, "tagged",
     {"form": "text", "text": "Ruth chairs", "extra": '{"tags": ["B-P", "O"], "tokens": ["Ruth", "chairs"]}'}),
    ({"question": "Fee?", "context": "It is 5.", "answers": {"text": ["5", "5"], "answer_start": [6, 6]}}, "squad",
     {"question": "It is 5.\n\nFee?", "answer": "5", "answers": ["5"], "context": "It is 5.",
      "extra": '{"answers": {"answer_start": [6, 6], "text": ["5", "5"]}}'}),
    ({"question": "Fee?", "context": "It is late.", "answers": {"text": [], "answer_start": []}}, "squad",
     {"form": "text", "text": "It is late.\n\nFee?", "context": "It is late.",
      "extra": '{"answers": {"answer_start": [], "text": []}}'}),
    ({"text": "Where?", "text_pair": "Here.", "score": 0.5}, "scored",
     {"form": "text", "text": "Where?\n\nHere.", "context": "Here.", "extra": '{"score": 0.5}'}),
    ({"text": "A man sleeps.", "text_pair": "He is awake.", "label": "no"}, "labelled",
     {"question": "A man sleeps.\n\nHe is awake.", "context": "He is awake.", "label": "no", "extra": ""}),
    ({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, "tokens", {"form": "tokens", "labels": [-100, 2, 3]}),
    (REQUEST, "requests", {"question": "Fee?", "answer": "Five", "origin_id": "r1"}),
    (BATCH, "requests", {"question": "Fee?", "origin_id": "b1"}),
    ({"request_json": json.dumps(REQUEST["request"]), "response_json": json.dumps(REQUEST["response"])},
     "requests", {"answer": "Five"}),
    ({"prompt": "Fee?", "chosen": "Five", "rejected": "Six"}, "preferences",
     {"form": "preference", "question": "Fee?", "answer": "Five", "rejected": "Six", "answers": ["Five"]}),
    ({"prompt": TURNS[:4], "chosen": TURNS[4:], "rejected": [{**TURNS[4], "content": "Six"}]}, "preferences",
     {"question": "Fee?", "history": TURNS[:3], "answer": "Five", "rejected": "Six"}),
    ({"chosen": TURNS, "rejected": [*TURNS[:4], {**TURNS[4], "content": "Six"}]}, "preferences",
     {"question": "Fee?", "history": TURNS[:3], "answer": "Five", "rejected": "Six"}),
    (QNA, "instructlab", {"question": "Fees are low.\n\nFee?", "document": "skills/fees"}),
]  # fmt: skip


@pytest.mark.parametrize(("record", "name", "columns"), RECORDS)
def test_a_record_is_detected_and_read(record, name, columns):
    row = parse(record)[0]
    assert detect(record).name == name
    assert {column: row[column] for column in columns} == columns


@pytest.mark.parametrize(("record", "name"), [(record, name) for record, name, _ in RECORDS if name != "instructlab"])
def test_what_is_written_is_read_as_the_same_row(record, name):
    row = parse(record)[0]
    again = parse(FORMATS[name].write(row), format_name=name)[0]
    assert again["row_id"] == row["row_id"]


@pytest.mark.parametrize("record", [QNA, QNA3])
def test_instructlab_files_come_back(record):
    rows = parse(record)
    files = write_qna(rows)
    again = [row for path, content in files.items() for row in parse({"path": path, **content})]
    assert list(files) == [record["path"]]
    assert [row["row_id"] for row in again] == [row["row_id"] for row in rows]
    assert files[record["path"]].get("domain") == record.get("domain")


def test_every_row_passes_through_our_own_format():
    for record, _, _ in RECORDS:
        row = parse(record)[0]
        again = parse(json.loads(json.dumps(row)))[0]
        assert {**again, "template": ""} == {**row, "template": ""}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "no known format"),
        ({"a": 1}, "fields: a"),
        ({"instruction": "Add", "input": "1", "output": ""}, "`output` is empty"),
        ({"instruction": "Add", "output": 3}, "`output` is not text"),
        ({"prompt": "Fee?", "completion": None}, "`completion` is missing"),
        ({"messages": []}, "no list of turns"),
        ({"messages": TURNS[:-1]}, "does not end with an answer"),
        ({"messages": [TURNS[0], TURNS[2]]}, "not a user's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, TURNS[-1]]}, "'image_url'"),
        ({"messages": [TURNS[3], {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "call of a tool"),
        ({"messages": TURNS, "unmask": "yes"}, "`unmask`"),
        ({"chosen": "Five", "rejected": "Six"}, "does not end with an answer"),
        ({"prompt": "Fee?", "chosen": "Five", "rejected": ""}, "`rejected` is empty"),
        ({"prompt": "Fee?", "chosen": 5, "rejected": "Six"}, "`chosen` is not text"),
        ({"prompt": "Fee?", "chosen": "Five", "rejected": "Five"}, "are the same"),
        ({"chosen": TURNS, "rejected": TURNS[3:]}, "differ in more than their last turn"),
        ({"prompt": "Fee?", "chosen": [TURNS[0]], "rejected": "Six"}, "does not end with an answer"),
        ({"text": "x", "label": None}, "`label`"),
        ({"text": "x", "score": "high"}, "`score` is no number"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 `tokens` and 1 `tags`"),
        ({"tokens": ["a", 1], "tags": ["O", "O"]}, "no list of words"),
        ({"question": "a", "context": "b", "answers": {"text": [""]}}, "write an empty list where"),
        ({"input_ids": [1, 2], "labels": [1]}, "2 `input_ids` and 1 `labels`"),
        ({"input_ids": [1, 2], "labels": [1, 3]}, "label at 1"),
        ({"input_ids": [1, 2], "labels": [-100, -100]}, "no token to learn"),
        ({"input_ids": "12"}, "no list of numbers"),
        ({"input_ids": [-1]}, "something else than token numbers"),
        ({**REQUEST, "response": {"status_code": 429, "body": {}}}, "status 429"),
        ({**REQUEST, "response": {"choices": [{**CHOICE, "finish_reason": "length"}]}}, "'length'"),
        ({**REQUEST, "response": {"choices": []}}, "without choices"),
        ({**REQUEST, "request": "{"}, "is not JSON"),
        ({"seed_examples": []}, "no list of examples"),
        ({"seed_examples": [{"question": "Fee?"}]}, "`answer` is missing"),
    ],
)
def test_what_is_no_row(record, reason):
    with pytest.raises(BadRow, match=re.escape(reason)):
        parse(record)


def test_one_broken_example_costs_itself_alone():
    good, bad = {"question": "Fee?", "answer": "Five"}, {"question": "Due?"}
    found = parse({"seed_examples": [good, bad, good]})
    assert [isinstance(each, BadRow) for each in found] == [False, True, False]
    assert str(found[1]) == "example 2: `answer` is missing"


@pytest.mark.parametrize(
    ("record", "name"),
    [({"messages": TURNS}, "alpaca"), ({"messages": TURNS}, "pairs"), ({"text": "All."}, "messages"),
     ({"text": "All."}, "alpaca"), ({"text": "All."}, "preferences"), ({"messages": TURNS}, "preferences"),
     ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pairs"), ({"prompt": "a", "completion": "b"}, "document"),
     ({"prompt": "a", "completion": "b"}, "labelled"), ({"prompt": "a", "completion": "b"}, "tokens")],
)  # fmt: skip
def test_a_format_refuses_what_it_cannot_hold(record, name):
    row = parse(record)[0]
    if (name, row["form"]) == ("messages", "text"):
        assert FORMATS[name].write(row)["unmask"] is True
        return
    with pytest.raises(BadRow):
        FORMATS[name].write(row)


def test_what_a_record_says_besides_is_carried_along():
    row = parse({"prompt": "a", "completion": "b", "id": "7", "split": "heldout", "score": 0.5})[0]
    assert (row["origin_id"], row["split"], json.loads(row["extra"])["score"]) == ("7", "heldout", 0.5)


def test_an_unknown_format_is_named():
    with pytest.raises(UnknownFormat, match="alpaka"):
        format_of("alpaka")


def test_the_worse_answer_is_part_of_what_a_preference_is():
    rows = [parse({"prompt": "Fee?", "chosen": "Five", "rejected": worse})[0] for worse in ("Six", "Ten", "Six")]
    assert rows[0]["row_id"] == rows[2]["row_id"] != rows[1]["row_id"]
    assert rows[0]["row_id"] != parse({"prompt": "Fee?", "completion": "Five"})[0]["row_id"]
