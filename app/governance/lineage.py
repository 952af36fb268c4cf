"""Lineage: one graph over everything in the ledger, and trees drawn from it.

Guarantees: edges come from ledger statements alone; a dataset's documents, and the chunk and row behind an answer, come
from the tables of published versions. Whatever is named but not in the ledger is shown as such, never left out.
Not guaranteed: that the ledger is whole; ``signalbox verify`` says that.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from app.core.errors import UsageError
from app.core.parquet import parts_of
from app.governance.approvals import read_approval
from app.governance.evidence import published_leaves
from app.ledger.log import MOVES, REQUEST_BATCH, Leaf
from app.registry.tables import CHUNKS_FILE, DOCUMENTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version, VersionNotFound

if TYPE_CHECKING:
    from rich.tree import Tree

MAX_DOCUMENTS = 5


class NothingToTrace(UsageError):
    """No leaf of the ledger is about that digest: name one of a published version."""


@dataclass
class Node:
    """One thing in the tree: its kind, a label for people, its digest when it has one, and what is behind it."""

    kind: str
    label: str
    digest: str = ""
    detail: str = ""
    children: list["Node"] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, kind: str) -> list["Node"]:
        """Every node of a kind at or below this one."""
        return [node for node in self.walk() if node.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        own = {"kind": self.kind, "label": self.label, "digest": self.digest, "detail": self.detail}
        return {**own, "children": [child.to_dict() for child in self.children]}


class Graph:
    """The ledger's statements by digest; read once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    @cached_property
    def leaves(self) -> dict[str, Leaf]:
        """The leaf that published a digest."""
        return {leaf.statement.subject: leaf for leaf in published_leaves(self.registry)}

    @cached_property
    def moves(self) -> dict[str, list[Leaf]]:
        """Promotions and rollbacks by the digest they moved production to."""
        found: dict[str, list[Leaf]] = defaultdict(list)
        for kind in MOVES:
            for leaf in self.registry.ledger.leaves(kind):
                found[leaf.statement.subject].append(leaf)
        return found

    def version(self, digest: str) -> Version | None:
        """The published version of a digest; None for what has no version, such as a part of the request log."""
        try:
            return self.registry.get(self.leaves[digest].statement.kind, digest)
        except VersionNotFound:
            return None

    def tree(self, digest: str, seen: set[str]) -> Node:
        """What is behind a digest; a version met again is named without repeating what is behind it."""
        leaf = self.leaves.get(digest)
        if leaf is None:
            return Node("unknown", "not in the ledger", digest)
        version = self.version(digest)
        label = version.ref if version else leaf.statement.name
        node = Node(leaf.statement.kind, label, digest, _detail(version) if version else "")
        if digest in seen:
            node.detail = "see above"
            return node
        seen.add(digest)
        node.children = [self._move(move, seen) for move in self.moves.get(digest, ())]
        node.children += [self.tree(parent, seen) for parent in leaf.statement.parents]
        if leaf.statement.kind == "dataset" and version:
            node.children += _documents(self.registry, version)
        return node

    def _move(self, leaf: Leaf, seen: set[str]) -> Node:
        """A promotion with the approvals behind it; its verdict stands among the release's own parents."""
        statement = leaf.statement
        node = Node(statement.kind, statement.name, "", f"leaf {leaf.index}, {statement.time}, by {statement.actor}")
        for parent in statement.parents:
            behind = self.leaves.get(parent)
            if behind and behind.statement.kind == "approval" and (version := self.version(parent)):
                seen.add(parent)
                node.children.append(Node("approval", version.ref, parent, _detail(version)))
        return node


def trace(registry: Registry, digest: str) -> Node:
    """Everything behind a published version, down to documents.

    Raises:
        NothingToTrace: the ledger does not know the digest.
    """
    graph = Graph(registry)
    if digest not in graph.leaves:
        raise NothingToTrace(f"the ledger has no {digest}: name the digest of a published version")
    return graph.tree(digest, set())


def trace_answer(registry: Registry, row: Mapping[str, Any]) -> Node:
    """Everything behind one answer: its request, citations down to documents, training rows, release, approvals.

    Args:
        row: a row of the request log (``request_id``, ``question``, ``answer``, ``release``, ``route``, ``citations``).
    """
    graph, seen = Graph(registry), set[str]()
    answer = Node(
        "answer", f"{row['answer']!r}", "", f"to {row['question']!r}, by {row.get('model') or row.get('route')}"
    )
    answer.children = [_request(registry, row)]
    release = str(row.get("release") or "")
    answer.children += _citations(graph, row, release)
    answer.children += _training_rows(graph, row, release)
    answer.children.append(graph.tree(release, seen))
    return answer


def find_answer(registry: Registry, request_id: str) -> dict[str, Any]:
    """The request log's row of a request; NothingToTrace when the log has none."""
    import pyarrow.parquet as pq

    for path in reversed(parts_of(registry.workspace.requests_dir)):
        rows: list[dict[str, Any]] = pq.read_table(path, filters=[("request_id", "=", request_id)]).to_pylist()
        if rows:
            return {**rows[0], "part": path.name}
    raise NothingToTrace(f"the request log has no {request_id}: give the x-request-id of an answered request")


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


def _detail(version: Version) -> str:
    """The one figure about a version that a reader of a tree wants."""
    facts = version.facts
    if version.kind == "approval" and (approval := read_approval(version)):
        return f"{approval.meaning!r} by {approval.printed_name} ({approval.signer.key_name}), {approval.time}"
    if version.kind == "approval":
        return "its signature does not hold"
    if version.kind == "verdict":
        return f"{facts['light']}, {facts['gate']} gate for {facts['artifact']['ref']}"
    counted = [f"{facts[name]} {name.removeprefix('num_')}" for name in sorted(facts) if name.startswith("num_")]
    return ", ".join(counted[:3])


def _documents(registry: Registry, dataset: Version) -> list[Node]:
    rows = sorted(_table(registry, dataset, DOCUMENTS_FILE), key=lambda row: str(row["source"]))
    shown = [Node("document", row["source"], row["document_id"]) for row in rows[:MAX_DOCUMENTS]]
    more = len(rows) - len(shown)
    return shown + ([Node("documents", f"and {more} more")] if more > 0 else [])


def _table(registry: Registry, version: Version, name: str, **equal: str) -> list[dict[str, Any]]:
    """Rows of a version's table, those whose columns equal what is asked for; none when it has no such table."""
    import pyarrow.parquet as pq

    path = registry.folder(version) / name
    filters = [(column, "=", value) for column, value in equal.items()] or None
    rows: list[dict[str, Any]] = pq.read_table(path, filters=filters).to_pylist() if path.exists() else []
    return rows


def _request(registry: Registry, row: Mapping[str, Any]) -> Node:
    """The request and the leaf that entered its part of the log."""
    node = Node("request", str(row["request_id"]), "", str(row.get("time") or ""))
    part = row.get("part")
    batches = [leaf for leaf in registry.ledger.leaves(REQUEST_BATCH) if leaf.statement.name == part]
    for leaf in batches:
        node.children.append(Node(REQUEST_BATCH, str(part), leaf.statement.subject, f"leaf {leaf.index}"))
    if not batches:
        node.children.append(Node(REQUEST_BATCH, "not in the ledger yet"))
    return node


def _parts(graph: Graph, release: str, kind: str) -> list[Version]:
    """Versions of a kind behind a release."""
    if release not in graph.leaves:
        return []
    found = [graph.version(node.digest) for node in graph.tree(release, set()).walk() if node.kind == kind]
    return list({version.digest: version for version in found if version}.values())


def _citations(graph: Graph, row: Mapping[str, Any], release: str) -> list[Node]:
    datasets = _parts(graph, release, "dataset")
    return [_citation(graph, cited, datasets) for cited in row.get("citations") or ()]


def _citation(graph: Graph, cited: Mapping[str, Any], datasets: list[Version]) -> Node:
    node = Node("citation", str(cited.get("heading") or cited.get("title") or cited["source"]))
    node.children = [_chunk(graph.registry, str(cited["chunk_id"]), datasets)]
    return node


def _chunk(registry: Registry, chunk_id: str, datasets: list[Version]) -> Node:
    """A chunk with its document and the dataset version that holds both."""
    node = Node("chunk", "", chunk_id)
    for dataset in reversed(datasets):
        for row in _table(registry, dataset, CHUNKS_FILE, chunk_id=chunk_id):
            node.label, node.detail = " > ".join(row["heading_path"]) or row["title"], _cut(row["text"])
            document = Node("document", row["source"], row["document_id"])
            document.children = [Node("dataset", dataset.ref, dataset.digest)]
            node.children = [document]
            return node
    node.label = "in no dataset behind the release"
    return node


def _training_rows(graph: Graph, row: Mapping[str, Any], release: str) -> list[Node]:
    """Synthetic rows behind the model that taught this very answer; none when no language model gave it."""
    version = graph.version(release) if release in graph.leaves else None
    model = version.facts.get(str(row.get("route"))) if version else None
    if not model:
        return []
    datasets, nodes = _parts(graph, release, "dataset"), []
    for synthetic in reversed(_parts(graph, model, "synthetic")):
        for taught in _rows_of(graph.registry, synthetic, row)[:2]:
            node = Node("synthetic row", f"{taught['question']!r} -> {taught['answer']!r}", taught["row_id"])
            node.detail = f"{taught['method']}, of {synthetic.ref}, behind model {_short(model)}"
            node.children = [_chunk(graph.registry, str(taught["chunk_id"]), datasets)]
            nodes.append(node)
    return nodes[:MAX_DOCUMENTS]


def _rows_of(registry: Registry, synthetic: Version, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Training rows with this answer, those about a cited chunk first, then those in the most similar words."""
    answer, words = _plain(str(row["answer"])), set(_plain(str(row["question"])).split())
    cited = {str(each["chunk_id"]) for each in row.get("citations") or ()}
    taught = _table(registry, synthetic, ROWS_FILE, split="train")
    same = [each for each in taught if _plain(str(each["answer"])) == answer]

    def near(each: Mapping[str, Any]) -> tuple[bool, int, str]:
        shared = len(words & set(_plain(str(each["question"])).split()))
        return each["chunk_id"] not in cited, -shared, str(each["row_id"])

    return sorted(same, key=near)


def _plain(text: str) -> str:
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.casefold()).split())


def _cut(text: str, limit: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
