"""The index on disk: opened as written, refused when its parts do not belong together."""

from pathlib import Path

import numpy as np
import pytest

from app.retrieval.index import CHUNKS_FILE, INDEX_FILE, IndexBroken, write_index
from app.retrieval.pipeline import embedded_text
from app.retrieval.search import SearchIndex

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
    hits = index.search(query, 2)[0]
    assert [(hit.chunk_id, round(hit.score, 3)) for hit in hits] == [("c2", 0.8), ("c1", 0.6)]
    assert hits[0].to_json()["heading_path"] == ["T", "H"]
    assert len(index.search(query, 99)[0]) == len(index) == 4


def test_equal_content_gives_equal_bytes(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_index(tmp_path / name, VECTORS, ROWS)
    for file in (INDEX_FILE, CHUNKS_FILE):
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
    assert embedded_text(ROWS[0], headings=True) == "T. H. t0"
    assert embedded_text(ROWS[0], headings=False) == "t0"
