"""Long chunks have a vector a window: nothing is left out, the best counts, limits and older indexes hold."""

from pathlib import Path

import numpy as np
import pytest

from app.inference.encoder import load_tokenizer
from app.registry.tables import WINDOWS_FILE
from app.retrieval.filters import Scope
from app.retrieval.index import IndexBroken, write_index
from app.retrieval.search import SearchIndex
from app.retrieval.windows import ChunkVectors, WindowsBroken, cut
from tests.retrieval.test_filters import row

HELD = Scope(labels=frozenset({"board"}))
WORDS = [f"w{n}" for n in range(300)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.mark.parametrize(
    ("num_words", "heading", "num_windows"),
    [(0, "", 1), (50, "", 1), (300, "", 8), (300, "A. ", 8), (300, "x " * 300, 16)],
)
def test_windows_hold_every_word_behind_the_heading(tokenizer, num_words: int, heading: str, num_windows: int):
    text = " ".join(WORDS[:num_words])
    windows = cut(heading, text, tokenizer=tokenizer, max_tokens=256, size=128, overlap=0.125)
    assert len(windows) == num_windows
    assert all(window.startswith(heading[:100]) for window in windows)
    assert {word for window in windows for word in window.split()} >= set(WORDS[:num_words])
    assert max(len(tokenizer.encode(window).ids) for window in windows) <= (256 if num_windows == 1 else 130)


def unit(random, num: int) -> np.ndarray:
    vectors = random.normal(size=(num, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(params=["flat", "ivf", "ivf-rabitq", "hnsw"])
def windowed(request, tmp_path: Path):
    """An index of 200 chunks with one to five vectors each, every tenth hidden; its vectors; whose they are."""
    random = np.random.default_rng(0)
    windows = np.repeat(np.arange(200), random.integers(1, 6, 200))
    vectors = unit(random, len(windows))
    rows = [row(n, access_labels=["board"] if n % 10 == 0 else [], text=f"w{n}") for n in range(200)]
    write_index(tmp_path, vectors, rows, windows=windows, kind=request.param)
    return SearchIndex.open(tmp_path), vectors, windows


@pytest.mark.parametrize("scope", [Scope(), HELD])
def test_a_chunk_counts_by_its_best_window_and_all_are_hidden_together(windowed, scope: Scope):
    index, vectors, windows = windowed
    question = unit(np.random.default_rng(1), 1)
    best = np.full(200, -1.0)
    np.maximum.at(best, windows, vectors @ question[0])
    seen = np.array([n % 10 != 0 or scope is HELD for n in range(200)])
    found = index.candidates([""], question, num=40, scope=scope)[0]
    exact = np.argsort(-np.where(seen, best, -2))[:40]
    assert len(index) == 200
    assert len(found.rows) == 40
    assert len({*found.rows.tolist()} & {*exact.tolist()}) >= 36
    assert seen[found.rows].all()
    assert np.allclose(found.dense, best[found.rows], atol=0.02)


def test_many_windows_of_one_chunk_leave_room_for_the_others():
    import faiss

    vectors = np.concatenate([np.tile(np.eye(1, 8), (500, 1)), 0.5 * np.eye(8)]).astype(np.float32)
    index = faiss.IndexFlatIP(8)
    index.add(vectors)
    chunks = ChunkVectors(index, np.array([0] * 500 + list(range(1, 9))))
    assert [rows.tolist()[0] for rows in chunks.nearest(np.eye(2, 8, dtype=np.float32), 9)] == [0, 2]
    assert {len(rows) for rows in chunks.nearest(np.eye(2, 8, dtype=np.float32), 9)} == {9}


@pytest.mark.parametrize("windows", [[0, 1], [0, 0, 2], [1, 1, 2], [0, 1, 0], [0, 0, 1, 2]])
def test_windows_that_do_not_fit_are_refused(tmp_path: Path, windows: list[int]):
    import faiss

    index = faiss.IndexFlatIP(4)
    index.add(np.eye(3, 4, dtype=np.float32))
    with pytest.raises(WindowsBroken, match="build the index again"):
        ChunkVectors(index, np.array(windows))
    with pytest.raises(IndexBroken):
        write_index(tmp_path, np.eye(3, 4, dtype=np.float32), [row(0), row(1)], windows=np.array(windows))


def test_an_index_without_windows_has_a_vector_a_chunk_and_one_that_lost_them_is_broken(tmp_path: Path):
    for name, windows in (("old", None), ("new", np.array([0, 0, 1]))):
        (tmp_path / name).mkdir()
        rows = [row(n) for n in range(3 if windows is None else 2)]
        write_index(tmp_path / name, np.eye(3, 4, dtype=np.float32), rows, windows=windows)
        assert (tmp_path / name / WINDOWS_FILE).exists() == (windows is not None)
        assert len(SearchIndex.open(tmp_path / name)) == len(rows)
    (tmp_path / "new" / WINDOWS_FILE).unlink()
    with pytest.raises(IndexBroken, match="3 vectors for 2 chunks"):
        SearchIndex.open(tmp_path / "new")
