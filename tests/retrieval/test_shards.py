"""A divided index ranks as the same index in one piece, filters and access labels included."""

import random
from pathlib import Path

import numpy as np
import pytest

from app.registry.tables import SHARDS_FILE
from app.retrieval.filters import Scope
from app.retrieval.index import IndexBroken
from app.retrieval.search import SearchIndex
from app.retrieval.settings import LexicalSettings, SearchSettings
from app.retrieval.shards import Layout, Local, Scattered, Shard, cut_shards, write_shards
from tests.retrieval.test_filters import row

WORDS = ["fee", "loan", "card", "vote", "branch", "office", "euro", "member", "rule", "account"]
SCOPES = [
    Scope(labels=None),
    Scope(),
    Scope(labels=frozenset({"board"})),
    Scope(documents=frozenset({"d3", "s90.md"}), labels=None),
    Scope(section="part 8"),
    Scope(documents=frozenset({"nowhere"})),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same 120 chunks (two a document, one to three windows each) in one piece and in shards; questions."""
    pick, numbers = random.Random(0), np.random.default_rng(0)
    rows = [
        row(
            n,
            document_id=f"d{n // 2}" if n < 100 else f"d{n}",
            title=f"{pick.choice(WORDS)} {pick.choice(WORDS)}",
            text=" ".join(pick.choices(WORDS, k=pick.randrange(3, 30))),
            access_labels=["board"] if n % 7 == 0 else [],
        )
        for n in range(120)
    ]
    windows = np.repeat(np.arange(120), numbers.integers(1, 4, 120))
    vectors = numbers.normal(size=(len(windows), 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = tmp_path_factory.mktemp("shards")
    for name, most in (("one", 10**6), ("many", 40)):
        (folder / name).mkdir()
        write_shards(folder / name, vectors, rows, windows=windows, most=most, lexical=LexicalSettings(k1=1.5))
    asked = [" ".join(pick.choices(WORDS, k=4)) for _ in range(12)]
    return folder, asked, vectors[:12]


@pytest.mark.parametrize("scope", SCOPES, ids=range(len(SCOPES)))
@pytest.mark.parametrize("fusion", ["convex", "rrf", "dense", "lexical"])
@pytest.mark.parametrize("num_candidates", [5, 200])
def test_hits_and_scores_are_those_of_one_piece(pair, scope: Scope, fusion: str, num_candidates: int):
    folder, asked, vectors = pair
    how = SearchSettings(fusion=fusion, num_candidates=num_candidates)
    one, many = (
        SearchIndex.open(folder / name).search(asked, vectors, 10, scope=scope, settings=how)
        for name in ("one", "many")
    )
    assert [[hit.chunk_id for hit in hits] for hits in many] == [[hit.chunk_id for hit in hits] for hits in one]
    for ours, theirs in zip(many, one, strict=True):
        assert [hit.text for hit in ours] == [hit.text for hit in theirs]
        values = [[(hit.score, *vars(hit.scores).values()) for hit in hits] for hits in (ours, theirs)]
        assert np.allclose(*(np.array([each[:-1] for each in part], dtype=float) for part in values), atol=1e-5)
    assert any(one) == ("nowhere" not in scope.documents)


def test_parts_that_others_hold_are_asked_together_and_give_the_same(pair):
    folder, asked, vectors = pair
    layout, calls = Layout.of(folder / "many"), []

    def scatter(made):
        calls.append([number for number, _, _ in made])
        return [getattr(Shard.open(folder / "many", number), method)(*args) for number, method, args in made]

    here = SearchIndex.open(folder / "many")
    there = SearchIndex(Scattered(layout, scatter), settings=here.settings, dim=here.dim)
    assert there.search(asked[:1], vectors[:1], 10) == here.search(asked[:1], vectors[:1], 10)
    assert calls[0] == list(range(len(layout.starts)))
    assert len(calls) == 2
    assert len(there) == len(here) == 120
    assert there.places(chunk_id="c77") == here.places(chunk_id="c77") == [77]
    assert there.places(source="s100.md") == [100]


def test_no_document_is_divided_and_no_shard_holds_more_than_it_may(pair):
    folder, _, _ = pair
    shards = Local.open(folder / "many").shards
    documents = [{*shard.parts.chunks["document_id"].to_pylist()} for shard in shards]
    assert len(shards) > 4
    assert sum(map(len, documents)) == len(set().union(*documents))
    assert max(shard.parts.vectors.num_vectors for shard in shards) <= 40
    assert not (folder / "one" / SHARDS_FILE).exists()


@pytest.mark.parametrize(
    ("documents", "sizes", "starts"),
    [
        ("aabbcc", [1] * 6, [0, 4]),
        ("aaaaab", [1] * 6, [0, 5]),
        ("abc", [9, 1, 9], [0, 1, 2]),
        ("abcd", [1] * 4, [0]),
        ("", [], [0]),
    ],
)
def test_shards_begin_where_a_document_does(documents: str, sizes: list[int], starts: list[int]):
    assert cut_shards(documents, sizes, most=4) == starts


@pytest.mark.parametrize("damage", ["no layout", "half a layout", "a shard is gone"])
def test_a_damaged_division_is_said_so(pair, tmp_path: Path, damage: str):
    import shutil

    shutil.copytree(pair[0] / "many", tmp_path / "many")
    if damage == "a shard is gone":
        shutil.rmtree(tmp_path / "many" / "shard-0002")
    else:
        (tmp_path / "many" / SHARDS_FILE).write_text("{" if damage == "no layout" else '{"folders": []}')
    with pytest.raises(IndexBroken, match="build it again"):
        SearchIndex.open(tmp_path / "many")
