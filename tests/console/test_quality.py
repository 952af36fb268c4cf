"""The page of a quality report: everything is in it, escaped, and nothing is fetched."""

import re

from app.console.quality import LIMIT, looks_of, render_page

QUALITY = {
    "num_read": 5000, "num_rows": 4990, "near_duplicates_across_splits": 3, "documents_in_two_splits": 0,
    "rows_with_finding": {"personal": 7}, "actions": {"personal": "report"}, "personal_by_kind": {"PHONE_NUMBER": 9},
    "rejected_by_stage": {}, "languages": {"en": 4000, "de": 990}, "splits": {"train": 4990},
    "chars": {"min": 3, "median": 40, "max": 9000}, "looks": {"personal": "presidio", "contamination": "not taken"},
}  # fmt: skip
VERSION = {"kind": "dataset", "ref": "fees@1", "digest": "sha256:1", "published": "today"}


def test_the_page_says_all_escapes_all_and_fetches_nothing():
    odd = {"row_id": "sha256:0123456789abcdef", "finding": "personal", "detail": "<script>", "action": "report"}
    page = render_page(
        VERSION, quality=QUALITY, findings=[odd] * (LIMIT + 1), rejects=[{"source": "<b>", "reason": "&"}]
    )
    assert (page.count("<svg"), page.count("0123456789ab<")) == (5, LIMIT)
    assert f"The first {LIMIT} of {LIMIT + 1}." in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert not re.findall(r"(?:src|href)=.http", page)


def test_looks_that_were_not_taken_are_listed_too():
    assert [(look["name"], look["num"], look["how"]) for look in looks_of(QUALITY)] == [
        ("personal", 7, "presidio"), ("contamination", 0, "not taken")
    ]  # fmt: skip
