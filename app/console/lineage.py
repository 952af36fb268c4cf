"""Lineage for people: a tree on the terminal, plain text, and a picture in one HTML page.

Guarantees: the page needs no other file and no network; everything in it is escaped. Not guaranteed: a picture that
fits a screen; a large graph scrolls.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from app.console.layers import Layout, lay_out
from app.governance.lineage import Node

if TYPE_CHECKING:
    from rich.tree import Tree

BOX_WIDTH, BOX_HEIGHT = 190, 40
COLUMN, ROW, MARGIN = 250, 54, 24
LABEL_CHARS = 27
FAMILIES = {
    "data": ("document", "documents", "chunk", "citation", "dataset", "index", "suite"),
    "learnt": ("synthetic", "synthetic row", "run", "model", "retriever", "router"),
    "judged": ("evaluation", "verdict", "policy", "approval"),
    "moved": ("erasure", "release", "promotion", "rollback", "stop", "resume", "canary", "canary-end"),
    "asked": ("answer", "request", "request-batch"),
}
"""Colours of the picture, and the kinds that bear them; all other kinds are grey."""


def render(node: Node) -> "Tree":
    """The tree for a terminal."""
    from rich.text import Text
    from rich.tree import Tree

    def line(each: Node) -> Text:
        text = Text.assemble((each.kind, "bold cyan"), " ", each.label)
        text.append(f"  {_short(each.digest)}" if each.digest else "", style="dim")
        return text.append(f"  {each.detail}" if each.detail else "", style="italic")

    def grow(branch: Tree, children: list[Node]) -> Tree:
        for child in children:
            grow(branch.add(line(child)), child.children)
        return branch

    return grow(Tree(line(node)), node.children)


def render_text(node: Node, *, indent: str = "  ") -> str:
    """The tree as plain, indented lines."""
    return "\n".join(_lines(node, indent, 0))


def _lines(node: Node, indent: str, depth: int) -> Iterator[str]:
    parts = (node.kind, node.label, _short(node.digest), node.detail)
    yield indent * depth + "  ".join(part for part in parts if part)
    for child in node.children:
        yield from _lines(child, indent, depth + 1)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def render_page(node: Node, *, title: str, onwards: bool = False) -> str:
    """The tree as a graph, every thing once, drawn from left to right; one HTML page that needs no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    nodes, edges = node.merged()
    layout = lay_out(list(nodes), edges)
    boxes = [_box(number, key, each, layout) for number, (key, each) in enumerate(nodes.items())]
    numbers = {key: number for number, key in enumerate(nodes)}
    lines = [
        {"from": numbers[start], "to": numbers[end], "path": _path(layout.routes[start, end])} for start, end in edges
    ]
    size = {"width": layout.num_layers * COLUMN + MARGIN, "height": int(layout.height * ROW + ROW + MARGIN)}
    environment = Environment(loader=PackageLoader("app.console", "."), undefined=StrictUndefined, autoescape=True)
    page = environment.get_template("lineage.html.j2")
    return page.render(
        title=title,
        onwards=onwards,
        boxes=boxes,
        lines=lines,
        size=size,
        families=list(FAMILIES),
        tree=render_text(node),
    )


def _box(number: int, key: str, node: Node, layout: Layout) -> dict[str, Any]:
    layer, row = layout.places[key]
    family = next((family for family, kinds in FAMILIES.items() if node.kind in kinds), "other")
    label = node.label if len(node.label) <= LABEL_CHARS else node.label[: LABEL_CHARS - 1] + "\u2026"
    place = {"x": MARGIN + layer * COLUMN, "y": round(MARGIN + row * ROW), "width": BOX_WIDTH, "height": BOX_HEIGHT}
    return {"number": number, "family": family, "short": label, "facts": node.facts(), **place}


def _path(points: list[tuple[int, float]]) -> str:
    """A smooth line from the right side of one box to the left side of another, around the boxes between them."""
    half = BOX_HEIGHT / 2
    (layer, row), *rest = [(MARGIN + layer * COLUMN, MARGIN + row * ROW + half) for layer, row in points]
    x, y = layer + BOX_WIDTH, row
    path = [f"M{x:.0f} {y:.0f}"]
    for place, (left, level) in enumerate(rest):
        bend = (left - x) / 2
        path.append(f"C{x + bend:.0f} {y:.0f} {left - bend:.0f} {level:.0f} {left:.0f} {level:.0f}")
        x, y = left, level
        if place < len(rest) - 1:
            x += BOX_WIDTH
            path.append(f"H{x:.0f}")
    return "".join(path)
