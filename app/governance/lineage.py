"""Lineage: what is behind a version or an answer, and what was made of a version, as trees drawn from the graph.

Guarantees: edges come from ledger statements alone; a dataset's documents, and the chunk and row behind an answer, come
from the tables of published versions. Whatever is named but not in the ledger is shown as such, never left out.
Not guaranteed: that the ledger is whole; ``signalbox verify`` says that.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.digests import hex_of
from app.core.parquet import parts_of
from app.governance.approvals import read_approval
from app.governance.graph import Graph, NothingToTrace
from app.ledger.batches import find_receipt, root_of
from app.ledger.erasures import ErasedFile, erasures_in
from app.ledger.log import REQUEST_BATCH, Leaf
from app.registry.tables import CHUNKS_FILE, DOCUMENTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version

MAX_DOCUMENTS = 5
SEE_ABOVE = "see above"
VERDICT_SAYS = (("light",), ("gate",), ("artifact", "ref"))


class AnswerErased(NothingToTrace):
    """The answer was erased, and with it what it cited; its receipt stays: see `signalbox receipt show`."""


@dataclass
class Node:
    """One thing in the tree: its kind, a label for people, its digest when it has one, and what is behind it."""

    kind: str
    label: str
    digest: str = ""
    detail: str = ""
    children: list["Node"] = field(default_factory=list)
    leaf: Leaf | None = None
    """The leaf that put it on record; None for what stands in a version's table, such as a chunk."""
    again: bool = False
    """Whether it is only named here, and shown in full elsewhere."""

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, kind: str) -> list["Node"]:
        """Every node of a kind at or below this one."""
        return [node for node in self.walk() if node.kind == kind]

    @property
    def key(self) -> str:
        """What is the same for the same thing met twice."""
        return self.digest or f"{self.kind} {self.label} {self.detail}"

    def facts(self) -> dict[str, Any]:
        """The node without what is behind it; where it has a leaf, with its index, time and actor."""
        own: dict[str, Any] = {"kind": self.kind, "label": self.label, "digest": self.digest, "detail": self.detail}
        if self.leaf:
            own |= {"leaf": self.leaf.index, "time": self.leaf.statement.time, "actor": self.leaf.statement.actor}
        return own

    def to_dict(self) -> dict[str, Any]:
        return {**self.facts(), "children": [child.to_dict() for child in self.children]}

    def merged(self) -> tuple[dict[str, "Node"], list[tuple[str, str]]]:
        """The same as a graph: every thing once by its key, and the edges between keys, each once."""
        nodes: dict[str, Node] = {}
        edges: dict[tuple[str, str], None] = {}
        for node in self.walk():
            if node.key not in nodes or nodes[node.key].again:
                nodes[node.key] = node
            edges.update(((node.key, child.key), None) for child in node.children)
        return nodes, list(edges)


def trace(registry: Registry, digest: str, *, onwards: bool = False) -> Node:
    """Everything behind a published version, down to documents; with ``onwards``, everything made from it instead.

    Raises:
        NothingToTrace: the ledger does not know the digest.
    """
    graph = Graph(registry)
    return _tree(graph, graph.find(digest), set(), onwards=onwards)


def trace_answer(registry: Registry, row: Mapping[str, Any]) -> Node:
    """Everything behind one answer: its request, citations down to documents, training rows, release, approvals.

    Args:
        row: a row of the request log (``request_id``, ``question``, ``answer``, ``release``, ``route``, ``citations``).
    """
    graph = Graph(registry)
    answer = Node(
        "answer", f"{row['answer']!r}", "", f"to {row['question']!r}, by {row.get('model') or row.get('route')}"
    )
    release = str(row.get("release") or "")
    answer.children = [_request(registry, row)]
    answer.children += _citations(graph, row, release)
    answer.children += _training_rows(graph, row, release)
    answer.children.append(_tree(graph, release, set()))
    return answer


def trace_any(registry: Registry, ref: str, *, onwards: bool = False) -> Node:
    """Everything behind a version by its reference, or behind an answer by its request id.

    Raises:
        NothingToTrace: neither the ledger nor the request log knows it.
        AnswerErased: an erasure took the answer.
    """
    graph = Graph(registry)
    try:
        digest = graph.find(ref)
    except NothingToTrace as error:
        if onwards:
            raise
        try:
            return trace_answer(registry, find_answer(registry, ref))
        except AnswerErased:
            raise
        except NothingToTrace:
            raise NothingToTrace(f"{error}, or give the x-request-id of an answered request") from None
    return _tree(graph, digest, set(), onwards=onwards)


def find_answer(registry: Registry, request_id: str) -> dict[str, Any]:
    """The request log's row of a request; NothingToTrace when the log has none, AnswerErased when it had one."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for path in reversed(parts_of(registry.workspace.requests_dir)):
        place = pc.index(pq.read_table(path, columns=["request_id"])["request_id"], request_id).as_py()
        if place >= 0:
            return {**pq.read_table(path).slice(place, 1).to_pylist()[0], "part": path.name}
    if (leaf := _erasure_of(registry, request_id)) is not None:
        said = f"the answer to {request_id} is gone, leaf {leaf} erased it; its receipt stays"
        raise AnswerErased(f"{said}: `signalbox receipt show {request_id}` proves when and by which release")
    raise NothingToTrace(f"the request log has no {request_id}: give the x-request-id of an answered request")


def _erasure_of(registry: Registry, request_id: str) -> int | None:
    """The leaf that erased a request whose receipt is still there; None where none did."""
    found = find_receipt(registry.workspace.requests_dir, request_id)
    if found is None:
        return None
    part, receipts, receipt = found
    erased = erasures_in(registry.ledger, registry.store).of(REQUEST_BATCH, root_of(receipts), part.name)
    places = {place for place, each in enumerate(receipts) if each == receipt}
    return next((leaf for leaf, entry in erased if places & set(entry.receipts)), None)


def _tree(graph: Graph, digest: str, seen: set[str], *, onwards: bool = False) -> Node:
    """What is behind a digest, or ahead of it; a version met again is named without repeating what is behind it."""
    leaf = graph.leaves.get(digest)
    if leaf is None:
        return Node("unknown", "not in the ledger", digest)
    version = graph.version(digest)
    label = version.ref if version else leaf.statement.name
    node = Node(leaf.statement.kind, label, digest, _detail(version) if version else "", leaf=leaf)
    if digest in seen:
        node.detail, node.again = SEE_ABOVE, True
        return node
    seen.add(digest)
    node.children = [_move(graph, move, seen) for move in graph.moves.get(digest, ())]
    if onwards:
        node.children += [_tree(graph, child, seen, onwards=True) for child in graph.children.get(digest, ())]
        return node
    parents = [_tree(graph, parent, seen) for parent in leaf.statement.parents]
    node.children += [_run(version, parents)] if version and version.facts.get("run_id") else parents
    if leaf.statement.kind == "dataset" and version:
        node.children += _documents(graph, version)
    node.children += [_erasure(index, entry) for index, entry in graph.erased.get(digest, ())]
    return node


def _erasure(index: int, entry: ErasedFile) -> Node:
    """What was taken from a version on purpose; its digest and its proofs stay."""
    gone = f"{entry.num_rows} rows of {entry.file}" if entry.new else entry.file
    return Node("erasure", f"leaf {index}", detail=f"{gone} erased")


def _run(version: Version, parents: list[Node]) -> Node:
    """The training run that made a model out of its parents, by its id in MLflow."""
    return Node("run", str(version.facts["run_id"]), detail=f"MLflow's run of {version.ref}", children=parents)


def _move(graph: Graph, leaf: Leaf, seen: set[str]) -> Node:
    """A move of production with the approvals behind it; its verdict stands among the release's own parents."""
    statement = leaf.statement
    detail = f"leaf {leaf.index}, {statement.time}, by {statement.actor}"
    node = Node(statement.kind, statement.name, "", detail, leaf=leaf)
    for parent in statement.parents:
        if graph.kind(parent) == "approval" and (version := graph.version(parent)):
            seen.add(parent)
            approval = Node("approval", version.ref, parent, _detail(version), leaf=graph.leaves[parent])
            node.children.append(approval)
    return node


def _detail(version: Version) -> str:
    """The one figure about a version that a reader of a tree wants."""
    facts = version.facts
    if version.kind == "approval" and (approval := read_approval(version)):
        return f"{approval.meaning!r} by {approval.printed_name} ({approval.signer.key_name}), {approval.time}"
    if version.kind == "approval":
        return "its signature does not hold"
    if version.kind == "verdict":
        return "{}, {} gate for {}".format(*(version.stated("facts", *path) for path in VERDICT_SAYS))
    counted = [f"{facts[name]} {name.removeprefix('num_')}" for name in sorted(facts) if name.startswith("num_")]
    return ", ".join(counted[:3])


def _documents(graph: Graph, dataset: Version) -> list[Node]:
    table = graph.table(dataset, DOCUMENTS_FILE, columns=["document_id", "source"])
    rows = sorted(table.to_pylist(), key=lambda row: str(row["source"]))
    shown = [Node("document", row["source"], row["document_id"]) for row in rows[:MAX_DOCUMENTS]]
    more = len(rows) - len(shown)
    return shown + ([Node("documents", f"and {more} more", detail=f"of {dataset.ref}")] if more > 0 else [])


def _request(registry: Registry, row: Mapping[str, Any]) -> Node:
    """The request and the leaf that entered its part of the log."""
    node = Node("request", str(row["request_id"]), "", str(row.get("time") or ""))
    part = row.get("part")
    batches = [leaf for leaf in registry.ledger.leaves(REQUEST_BATCH) if leaf.statement.name == part]
    for leaf in batches:
        node.children.append(Node(REQUEST_BATCH, str(part), leaf.statement.subject, f"leaf {leaf.index}", leaf=leaf))
    if not batches:
        node.children.append(Node(REQUEST_BATCH, "not in the ledger yet"))
    return node


def _citations(graph: Graph, row: Mapping[str, Any], release: str) -> list[Node]:
    datasets = graph.versions_behind(release, "dataset")
    return [_citation(graph, cited, datasets) for cited in row.get("citations") or ()]


def _citation(graph: Graph, cited: Mapping[str, Any], datasets: list[Version]) -> Node:
    node = Node("citation", str(cited.get("heading") or cited.get("title") or cited["source"]))
    node.children = [_chunk(graph, str(cited["chunk_id"]), datasets)]
    return node


def _chunk(graph: Graph, chunk_id: str, datasets: list[Version]) -> Node:
    """A chunk with its document and the dataset version that holds both."""
    import pyarrow.compute as pc

    node = Node("chunk", "", chunk_id)
    for dataset in reversed(datasets):
        for row in graph.table(dataset, CHUNKS_FILE, where=pc.field("chunk_id") == chunk_id).to_pylist():
            node.label, node.detail = " > ".join(row["heading_path"]) or row["title"], _cut(row["text"])
            document = Node("document", row["source"], row["document_id"])
            node.children = [document, _holder(graph, dataset)]
            return node
    erased = [index for dataset in datasets for index, _ in graph.erased.get(dataset.digest, ())]
    node.label = f"erased by leaf {erased[-1]}" if erased else "in no dataset behind the release"
    return node


def _holder(graph: Graph, version: Version) -> Node:
    """The version that holds a row; shown in full where the release's own tree comes to it."""
    return Node(version.kind, version.ref, version.digest, leaf=graph.leaves[version.digest], again=True)


def _training_rows(graph: Graph, row: Mapping[str, Any], release: str) -> list[Node]:
    """Synthetic rows behind the model that taught this very answer; none when no language model gave it."""
    version = graph.version(release) if release in graph.leaves else None
    model = version.facts.get(str(row.get("route"))) if version else None
    if not model:
        return []
    datasets, nodes = graph.versions_behind(release, "dataset"), []
    for synthetic in reversed(graph.versions_behind(model, "synthetic")):
        for taught in _rows_of(graph, synthetic, row)[:2]:
            node = Node("synthetic row", f"{taught['question']!r} -> {taught['answer']!r}", taught["row_id"])
            node.detail = f"{taught['method']}, of {synthetic.ref}, behind model {hex_of(model)[:12]}"
            node.children = [_chunk(graph, str(taught["chunk_id"]), datasets), _holder(graph, synthetic)]
            nodes.append(node)
    return nodes[:MAX_DOCUMENTS]


def _rows_of(graph: Graph, synthetic: Version, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Training rows with this answer, those about a cited chunk first, then those in the most similar words."""
    import pyarrow.compute as pc

    answer, words = _plain(str(row["answer"])), set(_plain(str(row["question"])).split())
    cited = {str(each["chunk_id"]) for each in row.get("citations") or ()}
    taught = graph.table(synthetic, ROWS_FILE, where=pc.field("split") == "train").to_pylist()
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
