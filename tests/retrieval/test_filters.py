"""Access labels and filters: what a caller may not see cannot be found, counted, or felt in another hit's score."""

import random
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from app.retrieval.filters import PUBLIC, Scope, mask_of
from app.retrieval.index import write_index
from app.retrieval.search import SearchIndex

LABELS = [None, [], ["hr"], ["hr", "board"], ["board"], ["hr "], [""]]


def row(number: int, **more) -> dict:
    named = {"chunk_id": f"c{number}", "document_id": f"d{number}", "source": f"s{number}.md", "title": "T"}
    return {**named, "heading_path": ["T", f"Part {number}"], "ordinal": number, "text": f"word{number} fee", **more}


def table(**columns) -> pa.Table:
    rows = [row(n) for n in range(len(next(iter(columns.values()))))]
    whole = pa.Table.from_pylist(rows)
    types = {"access_labels": pa.list_(pa.string()), "date": pa.string()}
    for name, values in columns.items():
        whole = whole.append_column(name, pa.array(values, types[name]))
    return whole


@pytest.mark.parametrize(
    ("held", "seen"),
    [
        (frozenset(), [0, 1]),
        (frozenset({"hr"}), [0, 1, 2]),
        (frozenset({"board"}), [0, 1, 4]),
        (frozenset({"hr", "board"}), [0, 1, 2, 3, 4]),
        (frozenset({"HR", "h", "r", "hr,board", "*", "None"}), [0, 1]),
        (frozenset({""}), [0, 1, 6]),
        (None, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_chunk_is_seen_by_who_holds_all_of_its_labels(held, seen):
    mask = mask_of(table(access_labels=LABELS), Scope(labels=held))
    assert seen == list(range(len(LABELS))) if mask is None else np.flatnonzero(mask).tolist() == seen


def test_an_index_without_labels_is_public():
    assert mask_of(pa.Table.from_pylist([row(0)]), PUBLIC) is None


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ({"documents": frozenset({"d1", "s2.md", "nothing"})}, [1, 2]),
        ({"documents": frozenset({"nothing"})}, []),
        ({"section": "part 1"}, [1]),
        ({"section": "T"}, [0, 1, 2, 3]),
        ({"section": "part"}, []),
        ({"dated_from": date(2026, 1, 1)}, [1, 2]),
        ({"dated_to": date(2026, 1, 1)}, [0, 1]),
        ({"dated_from": date(2026, 1, 1), "dated_to": date(2026, 1, 1), "section": "t"}, [1]),
    ],
)
def test_filters_are_about_document_section_and_date(asked, seen):
    dates = ["2025-12-31", "2026-01-01T10:00:00Z", "2026-02-01", None]
    assert np.flatnonzero(mask_of(table(date=dates), Scope(**asked))).tolist() == seen


def test_where_no_date_is_known_nothing_is_of_a_day():
    assert mask_of(pa.Table.from_pylist([row(0)]), Scope(dated_from=date(2026, 1, 1))).tolist() == [False]


@pytest.fixture(params=["flat", "ivf", "ivf-rabitq", "hnsw"])
def secrets(request, tmp_path):
    """A hundred public chunks and twenty hidden ones that fit every question better; and the public ones alone."""
    random_state, number = np.random.default_rng(0), 400
    vectors = random_state.normal(size=(number, 16)).astype(np.float32)
    vectors[::20, 0] += 9
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        row(n, access_labels=["board"] if n % 20 == 0 else None, text="salary " * (3 if n % 20 == 0 else n % 2) + "fee")
        for n in range(number)
    ]
    write_index(tmp_path, vectors, rows, kind=request.param)
    return SearchIndex.open(tmp_path)


def ask(index: SearchIndex, k: int, scope: Scope):
    question = np.zeros((1, 16), dtype=np.float32)
    question[0, 0] = 1
    return index.search(["salary fee"], question, k, scope=scope)[0]


def test_hidden_chunks_take_no_place_and_move_no_scale(secrets):
    hidden = {f"c{n}" for n in range(0, 400, 20)}
    found = ask(secrets, 300, PUBLIC)
    assert not hidden & {hit.chunk_id for hit in found}
    assert len(ask(secrets, 5, PUBLIC)) == 5
    assert max(hit.scores.fused for hit in found) > 0.9
    assert {hit.chunk_id for hit in ask(secrets, 20, Scope(labels=frozenset({"board"})))} == hidden
    for scope in (Scope(documents=frozenset({"d0", "s20.md"})), Scope(section="part 40")):
        assert ask(secrets, 5, scope) == []
        assert ask(secrets, 5, replace(scope, labels=frozenset({"board"}))) != []


def test_no_mix_of_labels_finds_more_than_it_holds(secrets):
    pick = random.Random(1)
    for _ in range(20):
        held = frozenset(pick.sample(["hr", "Board", "boar", "board", " board", "%"], 3))
        found = {hit.chunk_id for hit in ask(secrets, 400, Scope(labels=held))}
        assert bool(found & {"c0", "c20"}) == ("board" in held)
