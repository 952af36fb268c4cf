"""Splits: by content or document alone, in about the shares asked for."""

import pytest
from pydantic import ValidationError

from app.datasets.schema import make_row
from app.datasets.settings import SplitSettings
from app.datasets.splits import divided_documents, split_of

SETTINGS = SplitSettings()


def rows(num, document=""):
    return [
        make_row("qa", question=f"q{n}", answer="a", document=document and f"{document}{n % 40}") for n in range(num)
    ]


def test_shares_are_about_right_and_nothing_else_decides():
    many = rows(2000)
    splits = [split_of(row, SETTINGS) for row in many]
    assert abs(splits.count("train") / 2000 - 0.9) < 0.02
    assert splits[100:200] == [split_of(row, SETTINGS) for row in many[100:200]]
    assert splits != [split_of(row, SplitSettings(seed=1)) for row in many]


def test_a_document_stands_on_one_side():
    settings = SplitSettings(train=0.5, calibration=0.25, heldout=0.25)
    divided = [{**row, "split": split_of(row, settings)} for row in rows(400, "doc")]
    assert divided_documents(divided) == []
    assert len({row["split"] for row in divided}) == 3
    assert divided_documents([*divided, {**divided[0], "split": "other"}]) == [divided[0]["document"]]


def test_a_split_that_a_row_came_with_stays():
    assert split_of({**rows(1)[0], "split": "heldout"}, SETTINGS) == "heldout"


def test_no_share_gets_nothing():
    only = SplitSettings(train=1, calibration=0, heldout=0)
    assert {split_of(row, only) for row in rows(300)} == {"train"}
    with pytest.raises(ValidationError, match="add up to 1"):
        SplitSettings(train=0.5)
