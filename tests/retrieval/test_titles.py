"""A title that the question names: how far, in which spelling, and what it adds."""

import numpy as np
import pyarrow as pa
import pytest

from app.retrieval.calibrate import best_weight, best_weights, calibrate_weights
from app.retrieval.fusion import Candidates, fuse
from app.retrieval.index import SEARCH_FILE, write_index
from app.retrieval.search import SearchIndex
from app.retrieval.settings import LexicalSettings, SearchSettings
from app.retrieval.titles import FOLDED, Titles
from tests.retrieval.test_filters import row

NAMES = ["Cockayne syndrome", "Cockayne syndrome type II", "cockayne Syndromes", "", "The", "II", "syndrome Cockayne"]


@pytest.mark.parametrize(
    ("question", "shares"),
    [
        ("What causes Cockayne syndrome type II?", [2 / 5, 4 / 5, FOLDED * 2 / 5, 0, 0, 1 / 5, 0]),
        ("cockayne syndrome", [FOLDED, 0, FOLDED, 0, 0, 0, 0]),
        ("Is the syndrome of Cockayne inherited", [0, 0, 0, 0, 0, 0, FOLDED * 2 / 3]),
        ("the", [0] * 7),
        ("", [0] * 7),
    ],
)
def test_the_longest_title_named_as_it_is_written_counts_most(question: str, shares: list[float]):
    titles = Titles(pa.table({"title": NAMES, "document_id": [str(n) for n in range(7)]}), language="english")
    assert titles.scores(question, np.arange(7)) == pytest.approx(shares)
    assert titles.scores(question, np.array([3, 1, 1])).tolist() == pytest.approx([shares[3], shares[1], shares[1]])
    assert len(titles.scores(question, np.arange(0))) == 0


def test_the_title_of_a_document_of_several_chunks_says_nothing_of_one_of_them():
    titles = Titles(pa.table({"title": ["Fees"] * 4, "document_id": ["a", "b", "b", "c"]}), language="english")
    assert titles.scores("Fees", np.arange(4)).tolist() == [1, 0, 0, 1]


def test_titles_add_to_the_convex_mix_alone():
    each = np.array([0.9, 0.1], np.float32)
    found = Candidates(np.arange(2), each, each, np.array([0, 1], np.float32))
    added = {
        fusion: fuse(found, SearchSettings(fusion=fusion, title_weight=0.4))
        - fuse(found, SearchSettings(fusion=fusion, title_weight=0))
        for fusion in ("convex", "rrf", "dense", "lexical")
    }
    assert added["convex"].tolist() == pytest.approx([0, 0.4])
    assert not any(added[fusion].any() for fusion in ("rrf", "dense", "lexical"))


@pytest.mark.parametrize(
    ("num_named", "share", "gold", "weight"),
    [
        (60, 0.4, {0}, 0.6),  # the title that is named says which document answers
        (60, 0.8, {1}, 0.0),  # it is another document's
        (3, 0.4, {0}, 0.3),  # three questions prove nothing
        (0, 0.4, {0}, 0.3),
    ],
    ids=["helps", "hurts", "too few", "none"],
)
def test_the_weight_of_titles_goes_where_the_questions_are_answered(
    num_named: int, share: float, gold: set[int], weight: float
):
    """Both parts rank row 1 just before row 0, whose title is named; by row 2 they are on one scale."""
    dense, lexical = np.array([0.56, 0.6, 0.4], np.float32), np.array([8.0, 10.0, 1.0], np.float32)
    found = [
        Candidates(np.arange(3), dense, lexical, np.array([share * (n < num_named), 0, 0], np.float32))
        for n in range(60)
    ]
    chosen = best_weights(found, [gold] * 60, settings=SearchSettings())
    assert chosen.title_weight == weight
    again = best_weights(found, [gold] * 60, settings=SearchSettings(title_weight=weight))
    assert again == chosen
    assert chosen.ndcg_at_10 >= best_weight(found, [gold] * 60, settings=SearchSettings()).ndcg_at_10


def test_questions_that_name_titles_choose_their_weight_for_an_index(tmp_path):
    """Each of 40 documents is called for in the words of the next one; only its title says which is meant."""
    rows = [row(n, title=f"Rule {n}", heading_path=[], text=f"see the fee of step{n}") for n in range(40)]
    words, search = LexicalSettings(headings=False), SearchSettings(title_weight=0.0)
    write_index(tmp_path, np.eye(40, dtype=np.float32), rows, lexical=words, search=search)
    index = SearchIndex.open(tmp_path)
    vectors = np.roll(np.eye(40, dtype=np.float32), 1, axis=0)
    helps = {f"step{(n + 1) % 40} of Rule {n}?": {n} for n in range(40)}
    assert calibrate_weights(index, helps, vectors).title_weight > 0
    hurts = {question: {(n + 1) % 40} for n, question in enumerate(helps)}
    assert calibrate_weights(index, hurts, vectors).title_weight == 0


def test_a_hit_says_what_its_title_made_and_an_older_index_ranks_as_it_did(tmp_path):
    write_index(tmp_path, np.eye(2, 4, dtype=np.float32), [row(n, title=f"Fee {n}", heading_path=[]) for n in range(2)])
    asked = (["What is Fee 1?"], np.eye(1, 4, dtype=np.float32), 2)
    hits = SearchIndex.open(tmp_path).search(*asked)[0]
    assert {hit.title: hit.scores.title for hit in hits} == {"Fee 1": 1.0, "Fee 0": 0.0}
    (tmp_path / SEARCH_FILE).write_text('{"search": {}, "lexical": {}}')
    older = SearchIndex.open(tmp_path).search(*asked)[0]
    assert {hit.title: hit.score for hit in hits}["Fee 1"] == pytest.approx(
        {hit.title: hit.score for hit in older}["Fee 1"] + SearchSettings().title_weight
    )
