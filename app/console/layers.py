"""Where to draw the nodes of a directed graph: in layers, with few crossings.

Purpose: places for a picture, without a drawing program. The method is that of Sugiyama, Tagawa and Toda (1981): layers
by longest path, places in a layer by the mean of the neighbours, long edges over invisible nodes of their own.
Guarantees: every node gets a place of its own, and an edge leads to a later layer; an edge that would close a cycle is
drawn backwards. Not guaranteed: the fewest crossings, which is NP-hard.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias

Edge: TypeAlias = tuple[str, str]
Place: TypeAlias = tuple[int, float]

SWEEPS = 8


@dataclass(frozen=True)
class Layout:
    """``places`` of nodes as (layer, row), and ``routes`` of edges as places from one end to the other."""

    places: Mapping[str, Place]
    routes: Mapping[Edge, list[Place]]
    num_layers: int
    height: float
    """The largest row."""


def lay_out(nodes: Sequence[str], edges: Iterable[Edge]) -> Layout:
    """Places of nodes and routes of edges. Every end of an edge must be among the nodes."""
    edges = list(dict.fromkeys(edges))
    layer_of = _layers(nodes, edges)
    chains = {edge: _chain(edge, layer_of) for edge in edges}
    layers: list[list[str]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for name, layer in layer_of.items():
        layers[layer].append(name)
    links = [link for chain in chains.values() for link in pairwise(chain)]
    left, right = _neighbours(links)
    rows = _rows(_order(layers, left, right), left, right)
    places = {name: (layer_of[name], rows[name]) for name in layer_of}
    routes = {edge: [places[name] for name in chain] for edge, chain in chains.items()}
    own = {name: places[name] for name in nodes}
    return Layout(own, routes, len(layers), max(rows.values(), default=0.0))


def _layers(nodes: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Layer of each node: the longest way to it from a node that nothing leads to."""
    ahead: dict[str, list[str]] = defaultdict(list)
    for start, end in edges:
        ahead[start].append(end)
    order = _sorted(nodes, ahead)
    place = {name: number for number, name in enumerate(order)}
    layer = dict.fromkeys(order, 0)
    for name in order:
        for end in ahead[name]:
            if place[end] > place[name]:
                layer[end] = max(layer[end], layer[name] + 1)
    return layer


def _sorted(nodes: Sequence[str], ahead: Mapping[str, list[str]]) -> list[str]:
    """Nodes in topological order; depth first without recursion, so that a cycle only loses its last edge."""
    done: dict[str, None] = {}
    for first in nodes:
        stack = [(first, iter(ahead.get(first, ())))] if first not in done else []
        open_nodes = {first}
        while stack:
            name, rest = stack[-1]
            following = next((end for end in rest if end not in done and end not in open_nodes), None)
            if following is None:
                done[name] = None
                stack.pop()
            else:
                open_nodes.add(following)
                stack.append((following, iter(ahead.get(following, ()))))
    return list(reversed(done))


def _chain(edge: Edge, layer_of: dict[str, int]) -> list[str]:
    """The edge's two ends, and between them an invisible node in every layer that it crosses."""
    start, end = edge
    first, last = layer_of[start], layer_of[end]
    step = 1 if last > first else -1
    between = {f"\0{start}\0{end}\0{layer}": layer for layer in range(first + step, last, step)}
    layer_of.update(between)
    return [start, *between, end]


def _neighbours(links: Iterable[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    left: dict[str, list[str]] = defaultdict(list)
    right: dict[str, list[str]] = defaultdict(list)
    for start, end in links:
        right[start].append(end)
        left[end].append(start)
    return left, right


def _order(layers: list[list[str]], left: Mapping[str, list[str]], right: Mapping[str, list[str]]) -> list[list[str]]:
    """Sort every layer by the mean place of its neighbours, forwards and backwards in turns."""
    place = {name: float(number) for layer in layers for number, name in enumerate(layer)}
    for sweep in range(SWEEPS):
        forwards = sweep % 2 == 0
        for layer in layers if forwards else reversed(layers):
            beside = left if forwards else right
            means = {name: _mean(beside.get(name, ()), place, place[name]) for name in layer}
            layer.sort(key=means.__getitem__)
            place.update((name, float(number)) for number, name in enumerate(layer))
    return layers


def _rows(layers: list[list[str]], left: Mapping[str, list[str]], right: Mapping[str, list[str]]) -> dict[str, float]:
    """Rows that follow the neighbours' as far as the order and a distance of one between two nodes allow."""
    rows = {name: float(number) for layer in layers for number, name in enumerate(layer)}
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wished = [_mean((*left.get(name, ()), *right.get(name, ())), rows, rows[name]) for name in layer]
            rows.update(zip(layer, _apart(wished), strict=True))
    top = min(rows.values(), default=0.0)
    return {name: row - top for name, row in rows.items()}


def _apart(wished: list[float]) -> list[float]:
    """The nearest rows to those wished, in least squares, that keep the order and a distance of one."""
    blocks: list[tuple[float, int]] = []
    for number, wish in enumerate(wished):
        mean, size = wish - number, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean = (before * count + mean * size) / (count + size)
            size += count
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    return [mean + number for number, mean in enumerate(flat)]


def _mean(names: Iterable[str], place: Mapping[str, float], default: float) -> float:
    found = [place[name] for name in names]
    return fmean(found) if found else default
