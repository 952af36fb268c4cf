"""Embed a dataset's chunks in a Ray Data actor pool and publish an index version: vectors, BM25, and how to fuse them.

Chunks are embedded by actors of the job's own, not through the serving application: the same class encodes, but a
build neither waits behind questions nor keeps them waiting, and needs nothing to be deployed.
Guarantees: every chunk has a vector, a long one several, in the order of the dataset's chunk table; a vector depends on
its own text alone, so that any number of workers, and an index that takes what did not change from the version before
it, give the same bytes; the same dataset, encoder, settings and questions give the same version without work; the
manifest says where the weights of the fusion come from, and names the retriever.
"""

import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.digests import digest_file
from app.core.errors import UsageError
from app.core.parquet import read_rows
from app.core.progress import progress
from app.core.workspace import Workspace
from app.inference.retrievers import PINNED, RetrieverMismatch, Source, find_source, source_named
from app.registry.tables import CHUNKS_FILE, DOCUMENTS_FILE, LEARNT_FILE, ROWS_FILE
from app.registry.versions import Registry, Version, open_registry
from app.registry.whole import chunks_of
from app.retrieval.calibrate import Calibrated, calibrate_weights, gold_of
from app.retrieval.embedding import Embed, embed_chunks, embedding_identity, known_vectors
from app.retrieval.filters import DATE, LABELS
from app.retrieval.index import IndexBroken, write_search
from app.retrieval.learnt import Learnt
from app.retrieval.search import SearchIndex
from app.retrieval.settings import RetrievalSettings, SearchSettings
from app.retrieval.shards import write_shards
from app.retrieval.vectors import choose_kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CODE_VERSION = "retrieval-3"
CALIBRATION = "weights-2"
"""Of the way in which questions choose the weights."""
KIND = "index"
DAYS = {"modified", "created"}
TUNED = ("dense_weight", "rerank_weight", "rerank_depth")
"""Settings of a search that a retriever was tuned with, where its facts state them."""


class QuestionsLearnt(UsageError):
    """Weights cannot be chosen on questions that the encoder has learnt: name others, or none."""


def build_index(
    dataset: Version,
    *,
    name: str,
    registry: Registry,
    settings: RetrievalSettings,
    questions: Version | None = None,
    retriever: Version | None = None,
    embed: Embed | None = None,
) -> Version:
    """Publish an index over a dataset version as the next version of index ``name``.

    Chunks whose embedded text the newest version embedded alike holds already are not embedded again.

    Args:
        questions: synthetic rows or a suite to calibrate the weights of the fusion on; None: those of the settings.
        retriever: whose encoder embeds, and whose re-ranker searches as its facts say; None: the pinned encoder alone.
        embed: texts to vectors; None: an actor pool of Ray Data's.

    Raises:
        IndexBroken: vectors were lost on the way; nothing is published.
        TooFewQuestions: not enough of the questions are about chunks of this dataset.
        QuestionsLearnt: the retriever was tuned on the questions.
        ArtifactChanged, RetrieverMismatch: the retriever is not what was published.
    """
    source = find_source(retriever, registry=registry)
    if questions and retriever and questions.digest in retriever.parents:
        said = f"{retriever.ref} was tuned on {questions.ref}, which would flatter its vectors"
        raise QuestionsLearnt(f"{said}: leave --questions out, it brings the weight that it chose on others")
    inputs = {
        "dataset": dataset.digest,
        "encoder": source.encoder,
        "settings": settings.identity(),
        "code_version": CODE_VERSION,
    } | {label: each.digest for label, each in (("questions", questions), ("retriever", retriever)) if each}
    inputs |= {"calibration": CALIBRATION} if questions else {}
    if version := registry.find(KIND, name, inputs):
        return version
    rows = chunk_rows(chunks_of(dataset, registry).parent, labels=settings.access_labels)
    known = known_vectors(name, registry=registry, settings=settings, encoder=source.encoder)
    embed = embed or partial(embed_texts, settings=settings, source=source, workspace=registry.workspace)
    vectors, windows = embed_chunks(rows, settings=settings, embed=embed, source=source, known=known)
    with tempfile.TemporaryDirectory() as folder:
        place, search = Path(folder), tuned_search(settings.search, retriever)
        most = settings.max_shard_vectors
        kind = choose_kind(min(len(vectors), most)) if settings.kind == "auto" else settings.kind
        write = partial(write_shards, windows=windows, most=most, kind=kind, lexical=settings.lexical, search=search)
        layout = write(place, vectors, rows, learnt=learnt_by(source))
        weights: dict[str, Any] = {"from": retriever.ref if retriever and search != settings.search else "the settings"}
        if questions:
            found = _calibrated(place, questions, source=source, registry=registry)
            search = search.model_copy(update=found.settings())
            write_search(place, search=search, lexical=settings.lexical)
            weights = {"from": questions.ref} | found.to_json()
        facts = {**source.facts(), "kind": kind, "num_chunks": len(rows), "num_vectors": len(vectors)}
        facts["num_shards"] = len(layout.starts)
        facts["embedding"] = embedding_identity(settings, encoder=source.encoder)
        facts |= {"search": search.model_dump(mode="json"), "weights": weights}
        parents = [dataset.digest, *(each.digest for each in (questions, retriever) if each)]
        return registry.publish(KIND, name, folder=place, inputs=inputs, parents=parents, facts=facts)


def learnt_by(source: Source) -> Learnt | None:
    """What a retriever has for BM25; RetrieverMismatch when its file is not the one that its facts name."""
    if source.folder is None or source.words is None:
        return None
    path = source.folder / LEARNT_FILE
    if not path.is_file() or digest_file(path) != source.words:
        said = f"retriever {source.name} states learnt words {source.words}, and holds others"
        raise RetrieverMismatch(f"{said}: tune it again")
    return Learnt.of_folder(source.folder)


def tuned_search(settings: SearchSettings, retriever: Version | None) -> SearchSettings:
    """The settings of a search with what a retriever's fact ``search`` says: how much to fuse, how far to re-rank."""
    stated = (retriever.facts.get("search") if retriever else None) or {}
    return SearchSettings(
        **settings.model_dump() | {name: stated[name] for name in TUNED if stated.get(name) is not None}
    )


def chunk_rows(folder: Path, *, labels: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """A dataset's chunks, each with its document's day and access labels, and the labels that its source's name gives.

    Args:
        labels: patterns of sources, and the labels that they give.
    """
    rows, path = read_rows(folder / CHUNKS_FILE), folder / DOCUMENTS_FILE
    documents = {row["document_id"]: row for row in read_rows(path)} if path.exists() else {}
    columns = {column for document in documents.values() for column in document}
    labelled = any(document.get(LABELS) for document in documents.values())
    for row in rows:
        document = documents.get(row["document_id"], {})
        if labels or labelled or LABELS in row:
            given = (each for pattern, named in labels.items() if fnmatchcase(row["source"], pattern) for each in named)
            row[LABELS] = sorted({*(row.get(LABELS) or ()), *(document.get(LABELS) or ()), *given})
        if DAYS & columns:
            row[DATE] = document.get("modified") or document.get("created")
    return rows


def _calibrated(folder: Path, questions: Version, *, source: Source, registry: Registry) -> Calibrated:
    """The weights that rank the questions' own chunks best."""
    index = SearchIndex.open(folder)
    asked = gold_of(read_rows(registry.folder(questions) / ROWS_FILE), index)
    return calibrate_weights(index, asked, source.load_questions().encode(list(asked)))


def embed_texts(
    texts: Sequence[str], *, settings: RetrievalSettings, source: Source, workspace: Workspace
) -> "NDArray[np.float32]":
    """Vectors of texts, float32 (n, dim), by an actor pool; texts of about one length share a batch.

    Args:
        source: the encoder; each actor looks it up in the workspace's registry.
    """
    import numpy as np
    import ray.data

    order, cuts = np.argsort([len(text) for text in texts], kind="stable"), range(0, len(texts), settings.batch_size)
    places = [order[start : start + settings.batch_size] for start in cuts]
    batches = [{"batch": n, "texts": [texts[place] for place in batch]} for n, batch in enumerate(places)]
    ray.data.DataContext.get_current().enable_progress_bars = False
    done = ray.data.from_items(batches, override_num_blocks=len(batches)).map_batches(
        Embedder,
        fn_constructor_kwargs={"retriever": source.name, "workspace": workspace},
        compute=ray.data.ActorPoolStrategy(size=min(settings.num_workers, len(batches))),
        batch_size=1,
        num_cpus=1,
        memory=settings.worker_memory_bytes,
    )
    vectors = np.zeros((len(texts), source.dim), dtype=np.float32)
    num_done = 0
    with progress("vectors", total=len(texts)) as bar:
        for row in done.iter_rows():
            part = np.frombuffer(row["vectors"], dtype=np.float32).reshape(-1, source.dim)
            vectors[places[row["batch"]]] = part
            num_done += len(part)
            bar.advance(len(part))
    if num_done != len(texts):
        raise IndexBroken(f"{num_done} of {len(texts)} texts were embedded: index again; nothing was published")
    return vectors


class Embedder:
    """The actor: a batch of texts in, their vectors as bytes out."""

    def __init__(self, *, retriever: str, workspace: Workspace) -> None:
        source = Source() if retriever == PINNED else source_named(retriever, registry=open_registry(workspace))
        self._encoder = source.load_encoder()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        vectors = [self._encoder.encode_apart([str(text) for text in texts]).tobytes() for texts in batch["texts"]]
        return {"batch": batch["batch"], "vectors": vectors}
