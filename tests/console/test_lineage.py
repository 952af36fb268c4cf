"""The picture of a graph: places that can be read, and a page that stands alone."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.console.layers import lay_out
from app.console.lineage import render_page
from app.governance.lineage import Node

NAMES = [f"n{number}" for number in range(9)]
EDGES = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=25)


@given(EDGES)
@settings(max_examples=60, deadline=None)
def test_no_two_nodes_touch_and_edges_lead_on(pairs):
    edges = [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]]
    layout = lay_out(NAMES, edges)
    places = sorted(layout.places.values())
    assert all(low[0] < high[0] or high[1] - low[1] > 0.999 for low, high in pairwise(places))
    assert all(layout.places[start][0] < layout.places[end][0] for start, end in edges)
    assert all(0 <= layer < layout.num_layers and -1e-9 <= row <= layout.height + 1e-9 for layer, row in places)
    for start, end in edges:
        route = layout.routes[start, end]
        assert (route[0], route[-1]) == (layout.places[start], layout.places[end])
        assert [layer for layer, _ in route] == list(range(route[0][0], route[-1][0] + 1))


@given(EDGES)
@settings(max_examples=40, deadline=None)
def test_a_cycle_is_drawn_all_the_same(pairs):
    layout = lay_out(NAMES, pairs)
    assert set(layout.places) == set(NAMES)
    assert set(layout.routes) == set(pairs)


def test_crossings_are_taken_out():
    places = lay_out(["a", "b", "c", "d"], [("a", "d"), ("b", "c")]).places
    assert (places["a"][1] < places["b"][1]) == (places["d"][1] < places["c"][1])


@pytest.fixture
def tree():
    shared = Node("dataset", "handbook@1", "sha256:d", "<script>alert(1)</script>")
    return Node(
        "release", "assistant@1", "sha256:r", children=[Node("model", "m", "sha256:m", children=[shared]), shared]
    )


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(tree):
    page = render_page(tree, title="Lineage of <b>")
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page)
    assert "<script>alert" not in page
    assert "Lineage of &lt;b&gt;" in page


def test_every_thing_is_a_box_once_and_every_edge_a_line(tree):
    page = render_page(tree, title="t")
    assert page.count('<g class="box') == 3
    assert "what stands behind it" in page
    assert "what was made from it" in render_page(tree, title="t", onwards=True)
    assert sorted(re.findall(r'data-from="(\d+)" data-to="(\d+)"', page)) == [("0", "1"), ("0", "2"), ("1", "2")]
