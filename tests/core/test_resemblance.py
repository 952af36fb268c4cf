"""Near-duplicates: every pair's true similarity is the yardstick, and crowds cost no quadratic time."""

import random

import numpy as np
import pytest

from app.core import resemblance
from app.core.resemblance import jaccard, near_duplicates, resembling, rows_of_band, shingle_hashes, signature
from benchmarks.datasets import exhaustive, shingles

RNG = random.Random(0)
VOCABULARY = [f"word{n}" for n in range(400)]
SENTENCE = " ".join(VOCABULARY[:40])


def text(num_words):
    return " ".join(RNG.choices(VOCABULARY, k=num_words))


def varied(whole, num):
    """The text with so many of its words replaced."""
    words = whole.split()
    for place in RNG.sample(range(len(words)), num):
        words[place] = RNG.choice(VOCABULARY)
    return " ".join(words)


def true_similarity(a, b):
    a, b = shingles(a), shingles(b)
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.95])
def test_what_is_found_is_what_every_pair_shows(threshold):
    first = [text(40) for _ in range(120)]
    texts = first + [varied(whole, RNG.choice([0, 1, 2, 4, 8])) for whole in first * 2]
    found = near_duplicates(texts, threshold=threshold)
    truth = exhaustive(texts, threshold=threshold)
    assert all(true_similarity(texts[later], texts[earlier]) >= threshold for later, earlier in found)
    assert {later for later, _ in found} <= truth
    assert len(found) >= 0.99 * len(truth) > 30


def test_texts_of_a_template_are_found_in_their_crowd():
    crowd = [varied(" ".join(VOCABULARY[:200]), 3) for _ in range(250)]
    assert len(near_duplicates(crowd, threshold=0.85)) >= 0.99 * len(exhaustive(crowd, threshold=0.85)) > 100


def test_the_first_of_several_is_named():
    assert near_duplicates([SENTENCE, "x y z", SENTENCE + " end", SENTENCE, "x  Y, z!"], threshold=0.8) == [
        (2, 0), (3, 0), (4, 1)
    ]  # fmt: skip


def hostile(num, kind):
    """Hashed texts that shall all fall into the same buckets: equal, alike, or not alike enough."""
    same = [np.arange(1, 41, dtype=np.uint64) << np.uint64(33)] * num
    if kind == "equal":
        return same
    own = 1 if kind == "alike" else 20
    return [np.append(same[0], np.arange(own, dtype=np.uint64) + np.uint64((1 << 62) + n * own)) for n in range(num)]


@pytest.mark.parametrize(
    ("kind", "num", "count", "most_per_text"),
    [("equal", 50_000, 49_999, 0), ("alike", 3000, 2999, 1), ("not alike", 1500, 0, 80)],
)
def test_a_hostile_bucket_costs_no_quadratic_time(monkeypatch, kind, num, count, most_per_text):
    sets, compared = hostile(num, kind), []
    looked_at = resemblance.jaccard
    monkeypatch.setattr(resemblance, "jaccard", lambda a, b: compared.append(1) or looked_at(a, b))
    monkeypatch.setattr(resemblance, "MAX_CANDIDATES", 64)
    signatures = np.tile(signature(sets[0]), (num, 1))
    assert len(resembling(signatures, sets, threshold=0.8)) == count
    assert len(compared) <= most_per_text * num


def test_texts_must_be_alike_in_every_part():
    whole = [shingle_hashes(each, 3) for each in (SENTENCE, SENTENCE + " a", SENTENCE + " b")]
    parts = [shingle_hashes(each, 3) for each in ("one part", "one part", "another")]
    signatures = np.array([signature(each) for each in whole])
    assert resembling(signatures, whole, threshold=0.8) == [(1, 0), (2, 0)]
    assert resembling(signatures, whole, parts, threshold=0.8) == [(1, 0)]


@pytest.mark.parametrize(
    ("a", "b"), [(SENTENCE, varied(SENTENCE, 4)), ("a b", "a b c"), ("", ""), ("", "a"), ("a", "A")]
)
def test_hashed_runs_are_as_alike_as_the_runs(a, b):
    assert jaccard(shingle_hashes(a, 3), shingle_hashes(b, 3)) == pytest.approx(true_similarity(a, b))


def test_a_signature_says_how_alike_two_texts_are_and_long_ones_are_taken_in_parts(monkeypatch):
    sets = [shingle_hashes(each, 3) for each in (SENTENCE * 20, varied(SENTENCE * 20, 60))]
    whole = [signature(each) for each in sets]
    assert abs((whole[0] == whole[1]).mean() - jaccard(*sets)) < 0.15
    monkeypatch.setattr(resemblance, "CHUNK", 7)
    assert (signature(sets[0]) == whole[0]).all()


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_leave_few_pairs_at_the_threshold_unseen(threshold):
    rows = rows_of_band(threshold)
    assert (1 - threshold**rows) ** (resemblance.NUM_HASHES // rows) < 0.01


def test_the_hashes_are_the_same_in_every_process():
    assert shingle_hashes("the fee of an account", 3).tolist() == HASHES


def test_different_texts_and_none():
    assert near_duplicates(["a b c d e", "v w x y z", ""], threshold=0.5) == []
    assert near_duplicates([], threshold=0.5) == []


HASHES = [8046381520726379275, 16457699859952800952, 17369378213835736015]
