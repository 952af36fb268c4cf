"""Words and runs of words."""

import pytest

from app.core.text import ngrams, words


def test_words_are_letters_and_digits_without_case():
    assert words("The Fee, i.e. ﬁve €12.50!") == ["the", "fee", "i", "e", "five", "12", "50"]


@pytest.mark.parametrize(("n", "count"), [(1, 4), (3, 2), (4, 1), (5, 0)])
def test_ngrams(n, count):
    assert len(ngrams(["a", "b", "c", "d"], n)) == count
