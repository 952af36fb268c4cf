"""Words, runs of words, and near-duplicates; the true similarity of every pair is the yardstick."""

import random

import pytest

from app.core.text import jaccard, near_duplicates, ngrams, shingles, words


def test_words_are_letters_and_digits_without_case():
    assert words("The Fee, i.e. ﬁve €12.50!") == ["the", "fee", "i", "e", "five", "12", "50"]


@pytest.mark.parametrize(("n", "count"), [(1, 4), (3, 2), (4, 1), (5, 0)])
def test_ngrams(n, count):
    assert len(ngrams(["a", "b", "c", "d"], n)) == count


def test_near_duplicates_are_those_whose_similarity_is_high():
    rng = random.Random(0)
    vocabulary = [f"word{n}" for n in range(400)]
    texts = [" ".join(rng.choices(vocabulary, k=40)) for _ in range(150)]
    copies = [text.replace(text.split()[5], "another") for text in texts[:30]]
    found = near_duplicates(texts + copies, threshold=0.7)
    pairs = {(n, 150 + n) for n in range(30) if jaccard(shingles(texts[n], 3), shingles(copies[n], 3)) >= 0.7}
    assert len(pairs) > 25
    assert {(earlier, later) for later, earlier in found} == pairs


def test_a_thousand_copies_are_all_found():
    assert len(near_duplicates(["the very same sentence here"] * 1000, threshold=0.9)) == 999


def test_different_texts_are_not():
    assert near_duplicates(["a b c d e", "v w x y z", ""], threshold=0.5) == []
