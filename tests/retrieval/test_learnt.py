"""BM25 learns of questions: it helps others than these, is made again after an erasure, left out where it hurts."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from app.registry.tables import LEARNT_FILE, LEXICAL_FOLDER
from app.retrieval import finish
from app.retrieval.choose import HeldOut
from app.retrieval.examples import Example, Examples
from app.retrieval.filters import Scope
from app.retrieval.finish import choose_words, learn_words
from app.retrieval.index import IndexBroken, write_index
from app.retrieval.learnt import Asked, Learnt, LearntBroken, Terms, codes_of
from app.retrieval.lexical import Analyser, Lexical
from app.retrieval.prepare import Prepared
from app.retrieval.search import SearchIndex
from app.retrieval.settings import LexicalSettings, SearchSettings, TuneSettings
from app.retrieval.shards import Local, write_shards
from app.retrieval.terms import learn_terms

ANALYSE = Analyser("english")
NUM = 40
TEXTS = [f"fund{n} holds units" for n in range(NUM)] + [f"firm duty number{n}" for n in range(4)]
VECTORS = np.ones((len(TEXTS), 4), dtype=np.float32) / 2
"""Of no use, so that words decide."""
ROWS = [
    {"document_id": f"d{n}", "source": f"{n}.md", "title": "", "heading_path": [], "chunk_id": f"c{n}", "ordinal": 0}
    | {"text": text}
    for n, text in enumerate(TEXTS)
]
QUESTIONS = [f"what duty does the firm have by units of fund{n}" for n in range(NUM)]
"""Of a firm and a duty they say nothing, but these are rarer than units."""
GOLD = [frozenset({n}) for n in range(NUM)]


def indexed(folder: Path, *, learnt: Learnt | None = None, most: int = 999) -> Path:
    folder.mkdir()
    write_shards(folder, VECTORS, ROWS, windows=np.arange(len(ROWS)), most=most, learnt=learnt)
    return folder


def asked_of(questions: list[str], gold: list[frozenset[int]]) -> Learnt:
    return Learnt(Terms.none(), Asked.of(questions, gold, [row["chunk_id"] for row in ROWS], ANALYSE))


def weighed(**weights: float) -> Learnt:
    stems = sorted((int(codes_of(ANALYSE(word))[0]), weight) for word, weight in weights.items())
    terms = Terms(np.array([code for code, _ in stems], np.uint64), np.array([w for _, w in stems], np.float32))
    return Learnt(terms, Asked.of([], [], [], ANALYSE))


BOTH = Learnt(weighed(units=3, firm=0.1).terms, asked_of(["Where is the spare key of fund0?"], [frozenset({1})]).asked)


def lead(parts: Local, numbers: range) -> float:
    """How far, on the mean, what answers a question leads before the best of the others."""
    scores = [np.concatenate([s.parts.lexical.scores(QUESTIONS[n]) for s in parts.shards]) for n in numbers]
    return float(np.mean([each[n] - np.delete(each, n).max() for n, each in zip(numbers, scores, strict=True)]))


@pytest.mark.parametrize("most", [999, 7])
def test_weights_learnt_of_half_the_questions_help_the_other_half(tmp_path: Path, most: int):
    parts = Local.open(indexed(tmp_path / "index", most=most))
    learnt_of, others = range(0, 20), range(20, NUM)
    found = SearchIndex.of(parts, tmp_path / "index", dim=4).candidates(QUESTIONS, VECTORS[:NUM], num=99, scope=Scope())
    given = [[each[n] for n in learnt_of] for each in (QUESTIONS, GOLD, found)]
    terms = learn_terms(*given, parts.shares, settings=TuneSettings(term_epochs=60))
    assert lead(parts.reworded(Learnt(terms, asked_of([], []).asked)), others) > lead(parts, others) + 0.1
    by_word = dict(zip(terms.codes.tolist(), terms.weights.tolist(), strict=True))
    assert max(by_word[int(codes_of(ANALYSE(word))[0])] for word in ("firm", "duty")) < 0.8
    again = learn_terms(*given, parts.shares, settings=TuneSettings(term_epochs=60))
    assert again.weights.tolist() == terms.weights.tolist()
    assert not len(learn_terms([], [], [], parts.shares, settings=TuneSettings()).codes)


def test_what_chunks_were_asked_by_finds_them_by_other_questions(tmp_path: Path):
    gold = [frozenset({3, 5})]
    parts = Local.open(indexed(tmp_path / "index", learnt=asked_of(["Which duty concerns unheard-of number2?"], gold)))
    scores = parts.shards[0].parts.lexical.scores("duty concerning number2")
    assert scores[3] == scores[5] > 0 == scores[4]
    before = Lexical.build(TEXTS, settings=LexicalSettings())
    assert before.scores("duty concerning number2")[[3, 5]].tolist() == [0, 0]
    known = parts.shards[0].parts.lexical._words
    assert "unheard" not in known, "only words of texts are taken"


def test_each_terms_share_adds_up_to_the_score(tmp_path: Path):
    parts = Local.open(indexed(tmp_path / "index", learnt=BOTH, most=7))
    rows = np.array([0, 1, 7, 30, 41])
    asked = "units of fund0 and units, a firm duty"
    codes, added = parts.shares(asked, rows)
    scores = np.concatenate([each.parts.lexical.scores(asked) for each in parts.shards])
    assert len(codes) == len(added) == 6, "five words, one twice, and a pair"
    assert added.sum(axis=0) == pytest.approx(scores[rows])
    assert parts.shares("?", rows)[1].shape == (0, 5)


def test_what_is_written_is_read_and_damage_is_said(tmp_path: Path):
    (tmp_path / "again").mkdir()
    assert BOTH.write(tmp_path) == BOTH.write(tmp_path / "again")
    held = Learnt.of_folder(tmp_path)
    assert [np.array_equal(*pair) for pair in zip(vars(held.asked).values(), vars(BOTH.asked).values(), strict=True)]
    assert held.terms.of(codes_of(["unit", "firm", "fee"])).tolist() == pytest.approx([3, 0.1, 1])
    assert Learnt.of_folder(tmp_path / "nowhere") is None
    whole = (tmp_path / LEARNT_FILE).read_bytes()
    upside_down = Learnt(Terms(BOTH.terms.codes[::-1], BOTH.terms.weights), BOTH.asked)
    for damage in (b"", whole[: len(whole) // 2], None):
        (tmp_path / LEARNT_FILE).write_bytes(damage) if damage is not None else upside_down.write(tmp_path)
        with pytest.raises(LearntBroken, match="tune the retriever again"):
            Learnt.of_folder(tmp_path)


@pytest.mark.parametrize("most", [999, 7])
def test_bm25_that_was_taken_away_is_made_again_with_what_was_learnt(tmp_path: Path, most: int):
    folder = indexed(tmp_path / "index", learnt=BOTH, most=most)
    asked = ["spare units of fund1", "a firm's duty"]

    def scores() -> list[list[float]]:
        shards = Local.open(folder).shards
        return [[x for each in shards for x in each.parts.lexical.scores(one).tolist()] for one in asked]

    before, plain = scores(), Lexical.build(TEXTS, settings=LexicalSettings())
    for place in list(folder.rglob(LEXICAL_FOLDER)):
        shutil.rmtree(place)
    assert scores() == before
    assert before[0] != plain.scores(asked[0]).tolist()
    assert before[1][40] == pytest.approx(0.1 * 0.5 * plain.scores("firm")[40] * 2 + plain.scores("duty")[40], rel=0.4)
    (folder / LEARNT_FILE).write_bytes(b"x")
    with pytest.raises(IndexBroken, match="build it again"):
        Local.open(folder)


def test_nothing_learnt_changes_nothing(tmp_path: Path):
    nothing = asked_of([], [])
    plain, other = (Lexical.build(TEXTS, settings=LexicalSettings(), **how) for how in ({}, {"terms": nothing.terms}))
    for name, each in (("plain", plain), ("other", other)):
        each.write(tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("plain", "other")]
    assert files[0] == files[1]
    (tmp_path / "index").mkdir()
    write_index(tmp_path / "index", VECTORS, ROWS)
    assert not (tmp_path / "index" / LEARNT_FILE).exists()
    empty = Lexical.build(["", "?"], settings=LexicalSettings(), terms=BOTH.terms, asked={0: [codes_of(["fee"])]})
    assert empty.scores("fee").tolist() == [0, 0]


def test_what_does_not_help_questions_held_out_is_left_out(tmp_path: Path, monkeypatch):
    parts = Local.open(indexed(tmp_path / "index"))
    search = SearchIndex(parts, settings=SearchSettings(num_candidates=5), dim=4)
    found = search.candidates(QUESTIONS, VECTORS[:NUM], num=5, scope=Scope(labels=None))
    given = tuple(Example(question=QUESTIONS[n], gold=(n,)) for n in range(20))
    held = HeldOut(QUESTIONS[20:], GOLD[20:], found[20:])
    prepared = Prepared(Examples(read=(), train=given), held, search, None, parts, found[:20], VECTORS[20:NUM])
    settings = TuneSettings(term_epochs=60)
    assert [bool(len(each.terms.codes)) for each in learn_words(prepared, settings)] == [True, False, True]
    off = TuneSettings(term_epochs=0, learn_asked=False)
    assert choose_words(prepared, off)[:2] == (None, prepared)
    wrong = weighed(units=0.01, firm=9, **{f"fund{n}": 0.01 for n in range(NUM)})
    monkeypatch.setattr(finish, "learn_words", lambda *_: [wrong])
    learnt, same, before = choose_words(prepared, settings)
    assert (learnt, same) == (None, prepared)
    right = weighed(firm=0.01, duty=0.01)
    monkeypatch.setattr(finish, "learn_words", lambda *_: [wrong, right, wrong])
    learnt, changed, after = choose_words(prepared, settings)
    assert learnt is right
    assert (changed.held_out.questions, changed.found) == (held.questions, prepared.found)
    assert before.ndcg_at_10 < 0.5 < after.ndcg_at_10
