"""BM25 counts words and pairs of neighbours; what is written is what is opened, of before there were pairs too."""

import json
from pathlib import Path

import numpy as np
import pytest

from app.retrieval.lexical import PAIRS_FILE, WORDS_FILE, Lexical
from app.retrieval.settings import LexicalSettings

TEXTS = ["a person who is relevant pays", "a relevant person pays", "the", "pays", "nobody pays a fee here"]


def words(**how) -> Lexical:
    return Lexical.build(TEXTS, settings=LexicalSettings(**how))


def test_neighbours_are_worth_more_than_their_words():
    apart, near, *others = words().scores("who is a relevant person?")
    assert near > apart > max(others) == 0
    apart, near, *_ = words(pair_weight=0).scores("relevant person")
    assert near == apart


def test_a_pairs_weight_is_its_share_of_the_score():
    low, middle, high = (words(pair_weight=weight).scores("relevant person")[1] for weight in (0.5, 1, 1.5))
    assert middle - low == pytest.approx((high - low) / 2, rel=1e-4)
    assert high > low


@pytest.mark.parametrize(
    "question", ["relevant person pays", "person relevant", "fee here", "person", "pays unknown fee", "?"]
)
def test_what_is_opened_scores_as_what_was_written(tmp_path: Path, question: str):
    words().write(tmp_path / "words")
    assert np.array_equal(Lexical.open(tmp_path / "words").scores(question), words().scores(question))


def test_an_index_without_pairs_is_opened_as_it_was(tmp_path: Path):
    words(pair_weight=0).write(tmp_path / "words")
    about = json.loads((tmp_path / "words" / WORDS_FILE).read_text())
    del about["pair_weight"]
    (tmp_path / "words" / WORDS_FILE).write_text(json.dumps(about))
    opened = Lexical.open(tmp_path / "words")
    assert np.array_equal(opened.scores("relevant person"), words(pair_weight=0).scores("relevant person"))


def test_pairs_that_are_missing_are_noticed(tmp_path: Path):
    words().write(tmp_path / "words")
    (tmp_path / "words" / PAIRS_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        Lexical.open(tmp_path / "words")


def test_texts_of_one_word_have_no_pairs():
    scores = Lexical.build(["fee", "loan"], settings=LexicalSettings()).scores("loan fee")
    assert scores[0] == scores[1] > 0
