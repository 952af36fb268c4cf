"""The index on disk: opened as written, refused when its parts do not belong together."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from app.core.store import walk_files
from app.retrieval import vectors as faiss_kinds
from app.retrieval.embedding import embedded_text
from app.retrieval.index import CHUNKS_FILE, INDEX_FILE, LEXICAL_FOLDER, SEARCH_FILE, IndexBroken, write_index
from app.retrieval.lexical import NoStemmer
from app.retrieval.pipeline import chunk_rows
from app.retrieval.search import SearchIndex
from app.retrieval.settings import LexicalSettings, RetrievalSettings, SearchSettings

FUSIONS = ("dense", "lexical", "convex", "rrf")
VECTORS = np.eye(4, 8, dtype=np.float32)
ROWS = [
    {
        "chunk_id": f"c{n}",
        "document_id": "d",
        "source": "s",
        "title": "T",
        "heading_path": ["T", "H"],
        "ordinal": n,
        "text": f"t{n}",
    }
    for n in range(4)
]


def test_the_nearest_come_first_with_their_cosine(tmp_path: Path):
    write_index(tmp_path, VECTORS, ROWS)
    index = SearchIndex.open(tmp_path)
    query = (0.8 * VECTORS[2] + 0.6 * VECTORS[1])[None]
    hits = index.search([""], query, 2)[0]
    assert [(hit.chunk_id, round(hit.similarity, 3)) for hit in hits] == [("c2", 0.8), ("c1", 0.6)]
    assert hits[0].to_json()["heading_path"] == ["T", "H"]
    assert len(index.search([""], query, 99)[0]) == len(index) == 4


def test_equal_content_gives_equal_bytes(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_index(tmp_path / name, VECTORS, ROWS)
    files = [path.relative_to(tmp_path / "a") for path in walk_files(tmp_path / "a")]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path):
    with pytest.raises(IndexBroken, match="4 vectors for 3 chunks"):
        write_index(tmp_path, VECTORS, ROWS[:3])
    write_index(tmp_path, VECTORS, ROWS)
    other = tmp_path / "other"
    other.mkdir()
    write_index(other, VECTORS[:3], ROWS[:3])
    (other / CHUNKS_FILE).rename(tmp_path / CHUNKS_FILE)
    with pytest.raises(IndexBroken, match="4 vectors for 3 chunks"):
        SearchIndex.open(tmp_path)


@pytest.mark.parametrize("file", [INDEX_FILE, CHUNKS_FILE])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_index_is_said_so(tmp_path: Path, file: str, damage: str):
    write_index(tmp_path, VECTORS, ROWS)
    path = tmp_path / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:20] if damage == "cut" else b"x" * len(data))
    with pytest.raises(IndexBroken, match="build it again"):
        SearchIndex.open(tmp_path)


def test_headings_are_embedded_when_asked():
    assert embedded_text(ROWS[0], headings=True) == ("T. H. ", "t0")
    assert embedded_text(ROWS[0], headings=False) == ("", "t0")


def test_words_and_vectors_are_fused_and_each_part_says_what_it_made_of_a_chunk(tmp_path: Path):
    rows = [row | {"text": text} for row, text in zip(ROWS, ["fees", "the fee of loans", "loan", "vote"], strict=True)]
    write_index(tmp_path, VECTORS, rows)
    index = SearchIndex.open(tmp_path)
    query = (0.8 * VECTORS[3] + 0.6 * VECTORS[0])[None]
    found = {
        fusion: index.search(["Fee?"], query, 4, settings=SearchSettings(fusion=fusion, dense_weight=0.5))[0]
        for fusion in FUSIONS
    }
    order = {fusion: [hit.chunk_id for hit in hits] for fusion, hits in found.items()}
    assert order == {
        "dense": ["c3", "c0", "c1", "c2"],
        "lexical": ["c0", "c1", "c2", "c3"],
        "convex": ["c0", "c3", "c1", "c2"],
        "rrf": ["c0", "c3", "c1", "c2"],
    }
    first, last = found["convex"][0], found["convex"][-1]
    assert (round(first.scores.dense, 3), round(first.score, 3)) == (0.6, 0.875)
    assert first.scores.lexical > found["convex"][2].scores.lexical > last.scores.lexical == 0


def test_an_index_that_lost_its_words_gets_them_back_when_it_is_opened(tmp_path: Path):
    write_index(tmp_path, VECTORS, ROWS, lexical=LexicalSettings(k1=2.0, language="none"))
    before = SearchIndex.open(tmp_path).search(["t3 h"], VECTORS[:1], 4)
    shutil.rmtree(tmp_path / LEXICAL_FOLDER)
    assert SearchIndex.open(tmp_path).search(["t3 h"], VECTORS[:1], 4) == before
    (tmp_path / SEARCH_FILE).unlink()
    assert SearchIndex.open(tmp_path).search(["t3 h"], VECTORS[:1], 4) != before


@pytest.mark.parametrize("texts", [["", ""], ["...", "the of"]])
def test_chunks_without_a_word_are_found_by_their_vectors(tmp_path: Path, texts: list[str]):
    rows = [row | {"text": text, "title": "", "heading_path": []} for row, text in zip(ROWS, texts, strict=False)]
    write_index(tmp_path, VECTORS[:2], rows)
    hits = SearchIndex.open(tmp_path).search(["anything"], VECTORS[1:2], 2)[0]
    assert [hit.chunk_id for hit in hits] == ["c1", "c0"]


def test_a_language_without_a_stemmer_is_named(tmp_path: Path):
    with pytest.raises(NoStemmer, match="one of none, arabic"):
        write_index(tmp_path, VECTORS, ROWS, lexical=LexicalSettings(language="klingon"))


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-rabitq", "hnsw"])
def test_every_kind_finds_what_is_near(kind: str):
    vectors = np.random.default_rng(0).normal(size=(2000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss_kinds.build(vectors, kind)
    exact = np.argsort(-(vectors[:40] @ vectors.T), axis=1)[:, :10]
    _, ids = faiss_kinds.search(index, vectors[:40], 50)
    assert np.mean([len({*one} & {*other}) / 10 for one, other in zip(ids, exact, strict=True)]) > 0.85
    assert np.allclose(
        faiss_kinds.cosines(index, vectors[5], np.array([5, 7])), vectors[[5, 7]] @ vectors[5], atol=0.01
    )


def test_the_kind_follows_from_the_size():
    assert [faiss_kinds.choose_kind(num) for num in (10, 20_000, 20_001, 2_000_000)] == [
        "flat", "flat", "ivf", "ivf-rabitq",
    ]  # fmt: skip


def test_what_the_dataset_knows_of_a_chunk_is_in_its_hit(tmp_path: Path):
    rows = [row | {"page_start": 3, "page_end": None, "date": "2026-01-02", "parent": 0} for row in ROWS]
    write_index(tmp_path, VECTORS, rows)
    hit = SearchIndex.open(tmp_path).search([""], VECTORS[:1], 1)[0][0]
    assert (hit.page, hit.page_end, hit.date) == (3, None, "2026-01-02")


def test_chunks_get_labels_and_day_of_their_documents(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents = [
        {"document_id": "d", "access_labels": ["hr"], "modified": None, "created": "2026-01-02T00:00:00Z"},
        {"document_id": "e", "access_labels": None, "modified": "2026-02-02", "created": "2025-01-01"},
    ]
    rows = [row | {"document_id": "de"[n % 2], "access_labels": ["board"] * (n > 1)} for n, row in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(documents), tmp_path / "documents.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / CHUNKS_FILE)
    found = [(row["access_labels"], (row["date"] or "")[:10]) for row in chunk_rows(tmp_path, labels={})]
    assert found == [
        (["hr"], "2026-01-02"),
        ([], "2026-02-02"),
        (["board", "hr"], "2026-01-02"),
        (["board"], "2026-02-02"),
    ]


@pytest.mark.parametrize(
    ("patterns", "labels"),
    [
        ({}, [None, None]),
        ({"hr/*": ("hr",)}, [[], ["hr"]]),
        ({"hr/*": ("hr",), "*.md": ("all", "hr")}, [["all", "hr"], ["all", "hr"]]),
        ({"HR/*": ("hr",), "r/*": ("hr",)}, [[], []]),
    ],
)
def test_sources_give_labels_by_their_names(tmp_path: Path, patterns: dict, labels: list):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row | {"source": source} for row, source in zip(ROWS, ["a.md", "hr/pay/b.md"], strict=False)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / CHUNKS_FILE)
    settings = RetrievalSettings(access_labels=patterns)
    assert [row.get("access_labels") for row in chunk_rows(tmp_path, labels=settings.access_labels)] == labels
    assert settings.identity()["access_labels"] == {name: list(each) for name, each in patterns.items()}


@pytest.mark.parametrize("label", ["", " hr", "hr "])
def test_a_label_that_no_key_could_hold_is_refused(label: str):
    with pytest.raises(ValueError, match="access_labels"):
        RetrievalSettings(access_labels={"*": (label,)})
