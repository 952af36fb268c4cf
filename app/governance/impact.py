"""Blast radius: everything that came from one source document, and what must be made again without it.

Guarantees: chunks, synthetic rows and citing answers are found in the tables of every published version and of the
request log; which models, indexes and releases they reached follows from the ledger's statements. A version that was
made from a touched one, but whose own rows hold nothing of the document, is not counted.
Not guaranteed: that a model which learnt a row can still tell it; it is counted because it was trained on it.
Speed: only the columns asked for are read, and of the chunks only row groups whose statistics can hold the source.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.parquet import parts_of
from app.governance.graph import Graph, NothingToTrace
from app.ledger.erasures import ErasedDocuments
from app.ledger.log import REQUEST_BATCH
from app.registry.tables import CHUNKS_FILE, DOCUMENTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version

if TYPE_CHECKING:
    import pyarrow as pa

BY_TABLE = {"dataset": CHUNKS_FILE, "synthetic": ROWS_FILE}
"""Kinds whose own table says whether they hold the document; all others are touched when what they were made of is."""
STEPS = {
    "dataset": ("re-ingest", "jobs.ingest"),
    "index": ("re-index", "jobs.index"),
    "synthetic": ("synthesise", "jobs.synthesize"),
    "retriever": ("tune", "jobs.tune_retriever"),
    "model": ("retrain", "jobs.train, or a turn of jobs.retrain"),
    "evaluation": ("evaluate", "jobs.evaluate"),
    "release": ("promote", "jobs.promote"),
}
"""What must be made again, by kind, in the order in which it is made."""
RUNGS = ("small", "large")
CITED = "citations.list.element.document_id"


@dataclass(frozen=True)
class Touched:
    """A version that holds something of the document, or was made of one that does."""

    version: Version
    in_production: bool
    newest: bool
    """Whether it is the newest of its kind and name."""
    num_rows: int = 0
    """Its own chunks or synthetic rows of the document."""

    def to_dict(self) -> dict[str, Any]:
        own = {"kind": self.version.kind, "ref": self.version.ref, "digest": self.version.digest}
        return {**own, "in_production": self.in_production, "newest": self.newest, "num_rows": self.num_rows}


@dataclass(frozen=True)
class Impact:
    """Everything that came from one document. ``documents`` maps each document id to its sources."""

    documents: Mapping[str, Sequence[str]]
    chunks: "pa.Table" = field(repr=False)
    """``chunk_id, document_id, dataset``: a row for each chunk and the version that holds it."""
    rows: "pa.Table" = field(repr=False)
    """``row_id, document_id, synthetic``; the last names a dataset where rows were imported."""
    answers: "pa.Table" = field(repr=False)
    """``request_id, release, route, cites, taught``: answers that cite it, or that a model gave which learnt of it."""
    versions: Sequence[Touched]

    def of_kind(self, kind: str) -> list[Touched]:
        """Touched versions of a kind, those in production first, then the newest first."""
        found = [touched for touched in self.versions if touched.version.kind == kind]
        return sorted(reversed(found), key=lambda touched: (not touched.in_production, not touched.newest))

    def rebuild(self) -> list[dict[str, Any]]:
        """What must be made again, in this order; only what serves or is the newest of its name."""
        steps = []
        for kind, (step, job) in STEPS.items():
            due = [each.to_dict() for each in self.of_kind(kind) if each.in_production or each.newest]
            if due:
                steps.append({"step": step, "job": job, "versions": due})
        return steps

    def counts(self) -> dict[str, int]:
        """Numbers of all that was found; chunks and rows are counted once over all versions that hold them."""
        import pyarrow.compute as pc

        kinds = dict.fromkeys(touched.version.kind for touched in self.versions)
        unique = {"chunks": self.chunks["chunk_id"], "synthetic rows": self.rows["row_id"]}
        found = {name: len(pc.unique(column)) for name, column in unique.items()}
        cited = sum(self.answers["cites"].to_pylist())
        return {
            "documents": len(self.documents),
            **found,
            **{f"{kind} versions": len(self.of_kind(kind)) for kind in kinds},
            "answers": self.answers.num_rows,
            "answers that cite it": cited,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        tables = {"chunks": self.chunks, "synthetic_rows": self.rows, "answers": self.answers}
        return {
            "documents": {digest: list(sources) for digest, sources in self.documents.items()},
            "counts": self.counts(),
            **{name: table.to_pylist() for name, table in tables.items()},
            "versions": [touched.to_dict() for touched in self.versions],
            "rebuild": self.rebuild(),
        }


def find_impact(registry: Registry, document: str) -> Impact:
    """Everything that came from a document.

    Args:
        document: its id (the digest of its bytes), or its source path: then every document that had this path.

    Raises:
        NothingToTrace: no published dataset has such a document.
    """
    graph = Graph(registry)
    held = _find_documents(graph, document)
    documents = _merged(held.values())
    chunks = {digest: _chunks(graph, digest, found) for digest, found in held.items()}
    rows = {digest: _rows(graph, digest, documents) for digest in graph.ahead(held) if graph.kind(digest) in BY_TABLE}
    rows = {digest: table for digest, table in rows.items() if table.num_rows}
    touched = _spread(graph, [*held, *rows])
    num_rows = {digest: table.num_rows for digest, table in (chunks | rows).items()}
    return Impact(
        documents=documents,
        chunks=_joined(chunks, "dataset", ("chunk_id", "document_id")),
        rows=_joined(rows, "synthetic", ("row_id", "document_id")),
        answers=_answers(graph, set(touched), documents),
        versions=_describe(graph, touched, num_rows),
    )


Documents = dict[str, list[str]]


def _find_documents(graph: Graph, document: str) -> dict[str, Documents]:
    """Per dataset version that holds it: document ids and their sources."""
    import pyarrow.compute as pc

    wanted = (pc.field("document_id") == document) | (pc.field("source") == document)
    found: dict[str, Documents] = {}
    for digest, leaf in graph.leaves.items():
        version = graph.version(digest) if leaf.statement.kind == "dataset" else None
        if version is None:
            continue
        table = graph.table(version, DOCUMENTS_FILE, columns=["document_id", "source"], where=wanted)
        for row in table.to_pylist():
            found.setdefault(digest, {}).setdefault(row["document_id"], []).append(row["source"])
    if not found:
        raise NothingToTrace(f"no published dataset has a document {document!r}: {_near(graph, document)}")
    return found


def _near(graph: Graph, document: str) -> str:
    """The leaf that erased the document, else the nearest source path of the newest dataset."""
    erasures = ErasedDocuments(graph.registry.ledger, graph.registry.store)
    if (erased := erasures.leaf_of(document)) is not None:
        return f"leaf {erased} erased it, and its record names what it had reached"
    nameless = f"leaf {', '.join(map(str, erasures.leaves))} erased documents and keeps no name, ask by id; "
    datasets = [digest for digest, leaf in graph.leaves.items() if leaf.statement.kind == "dataset"]
    newest = graph.version(datasets[-1]) if datasets else None
    rows = graph.table(newest, DOCUMENTS_FILE, columns=["source"]).to_pylist() if newest else []
    sources = [str(row["source"]) for row in rows]
    near = get_close_matches(document, sources, n=1) or sources[:1]
    hint = f"did you mean {near[0]}?" if near else "ingest documents first"
    return nameless + hint if erasures.leaves else hint


def _merged(held: Iterable[Documents]) -> Documents:
    merged: Documents = {}
    for documents in held:
        for document_id, sources in documents.items():
            merged[document_id] = sorted({*merged.get(document_id, ()), *sources})
    return merged


def _chunks(graph: Graph, digest: str, documents: Documents) -> "pa.Table":
    """A dataset's chunks of the documents: the table is in the order of sources, so that few row groups are read."""
    import pyarrow.compute as pc

    sources = sorted({source for each in documents.values() for source in each})
    where = pc.field("source").isin(sources) & pc.field("document_id").isin(sorted(documents))
    return _table(graph, digest, CHUNKS_FILE, ["chunk_id", "document_id"], where)


def _rows(graph: Graph, digest: str, documents: Documents) -> "pa.Table":
    import pyarrow.compute as pc

    return _table(graph, digest, ROWS_FILE, ["row_id", "document_id"], pc.field("document_id").isin(sorted(documents)))


def _table(graph: Graph, digest: str, name: str, columns: list[str], where: Any) -> "pa.Table":
    import pyarrow as pa

    version = graph.version(digest)
    return graph.table(version, name, columns=columns, where=where) if version else pa.table({})


def _joined(tables: Mapping[str, "pa.Table"], holder: str, columns: Sequence[str]) -> "pa.Table":
    """One table, with a column that names the version that holds the row."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in (*columns, holder)])
    parts = [
        table.append_column(holder, pa.array([digest] * table.num_rows, pa.string())).select(schema.names).cast(schema)
        for digest, table in tables.items()
        if table.num_rows
    ]
    return pa.concat_tables([schema.empty_table(), *parts])


def _spread(graph: Graph, first: Sequence[str]) -> list[str]:
    """Everything that was made of what is touched; where a version's own table decides, only if that held something."""
    touched, waiting = set(first), list(first)
    while waiting:
        for child in graph.children.get(waiting.pop(), ()):
            if child not in touched and graph.kind(child) not in (*BY_TABLE, REQUEST_BATCH):
                touched.add(child)
                waiting.append(child)
    return sorted(touched, key=lambda digest: graph.leaves[digest].index)


def _describe(graph: Graph, touched: Iterable[str], num_rows: Mapping[str, int]) -> list[Touched]:
    newest = {(leaf.statement.kind, leaf.statement.name): digest for digest, leaf in graph.leaves.items()}
    found = [version for digest in touched if (version := graph.version(digest))]
    return [
        Touched(
            version,
            in_production=version.digest in graph.in_production,
            newest=newest[version.kind, version.name] == version.digest,
            num_rows=num_rows.get(version.digest, 0),
        )
        for version in found
    ]


def _answers(graph: Graph, touched: set[str], documents: Documents) -> "pa.Table":
    """Answers of the request log that cite a document, or that a model gave which was trained on it."""
    import pyarrow as pa

    columns = {"request_id": pa.string(), "release": pa.string(), "route": pa.string()}
    schema = pa.schema([*columns.items(), ("cites", pa.bool_()), ("taught", pa.bool_())])
    releases = {digest for digest in touched if graph.kind(digest) == "release"}
    parts = [_answers_of(path, graph, touched, documents) for path in _parts(graph, releases)]
    return pa.concat_tables([schema.empty_table(), *(part.select(schema.names).cast(schema) for part in parts)])


def _parts(graph: Graph, releases: set[str]) -> list[Path]:
    """Parts of the request log in which a touched release answered, and those that are not in the ledger yet."""
    logged = [leaf.statement for leaf in graph.leaves.values() if leaf.statement.kind == REQUEST_BATCH]
    others = {statement.name for statement in logged if releases.isdisjoint(statement.parents)}
    return [path for path in parts_of(graph.registry.workspace.requests_dir) if path.name not in others]


def _answers_of(path: Path, graph: Graph, touched: set[str], documents: Documents) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read(columns=["request_id", "release", "route", CITED])
    cited = table["citations"].combine_chunks()
    hits = pc.is_in(pc.struct_field(cited.flatten(), "document_id"), pa.array(sorted(documents), pa.string()))
    citing = pc.unique(pc.list_parent_indices(cited).filter(hits))
    cites = pc.is_in(pa.array(range(table.num_rows), citing.type), citing)
    taught = pc.is_in(_binary(table["release"], table["route"]), pa.array(_taught(graph, table, touched), pa.string()))
    marked = table.drop_columns(["citations"]).append_column("cites", cites).append_column("taught", taught)
    return marked.filter(pc.or_(cites, taught))


def _taught(graph: Graph, table: "pa.Table", touched: set[str]) -> list[str]:
    """``release route`` of each touched model that answered in a part of the log."""
    releases = [digest for digest in table["release"].unique().to_pylist() if digest in touched]
    found = [(digest, version.facts) for digest in releases if (version := graph.version(digest))]
    return [f"{digest} {rung}" for digest, facts in found for rung in RUNGS if facts.get(rung) in touched]


def _binary(release: Any, route: Any) -> Any:
    """The two columns as one, ``release route``."""
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(release, route, " ")
