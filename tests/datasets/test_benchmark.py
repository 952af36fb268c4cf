"""The benchmark measures what it says: precision and recall by type, and duplicates against every pair."""

import random

from app.core.personal import Hit
from benchmarks.datasets import _judged, duplicate_figures, exhaustive, made_up_personal, made_up_rows


def test_precision_and_recall_are_by_type():
    known = [{"text": "x" * 20, "spans": [{"type": "A", "start": 2, "end": 5}, {"type": "B", "start": 8, "end": 9}]}]
    hits = [Hit("A", 4, 6), Hit("A", 10, 12), Hit("C", 2, 5)]
    figures = _judged(known, lambda _: hits)["by_type"]
    assert {kind: (each["precision"], each["recall"]) for kind, each in figures.items()} == {
        "A": (0.5, 1.0), "B": (None, 0.0), "C": (0.0, None)
    }  # fmt: skip


def test_what_is_made_up_is_found():
    known = made_up_personal(random.Random(0))
    spans = [known[n]["text"][span["start"] : span["end"]] for n in range(20) for span in known[n]["spans"]]
    assert len(spans) == 10
    assert all("@" in span or span.startswith("+49") for span in spans)
    figures = duplicate_figures([row["answer"] for row in made_up_rows(random.Random(0))[:300]])
    assert figures["near_duplicates"] > 10
    assert (figures["precision"], figures["recall"]) == (1.0, 1.0)


def test_the_exhaustive_join_misses_none():
    texts = ["a b c d e f g h i j", "a b c d e f g h i j k", "z y x w v u t s", "a b c"]
    assert exhaustive(texts, threshold=0.8) == {1}
    assert exhaustive(texts, threshold=0.1) == {1, 3}
