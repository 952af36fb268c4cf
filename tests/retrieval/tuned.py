"""A small dataset, and retrievers over it whose encoder is a random BERT; published as the jobs do."""

from app.core.digests import digest_bytes
from app.core.parquet import write_rows
from app.inference.encoder import digest_of
from app.inference.reranker import reranker_digest
from app.inference.retrievers import find_source
from app.registry.tables import CHUNKS, CHUNKS_FILE
from app.retrieval import pipeline
from app.retrieval.settings import RetrievalSettings
from tests.inference.tiny_bert import write_encoder

TEXTS = [
    "The annual fee of the account is one card fee.",
    "The office may close in the summer.",
    "Who paid the school fee may pay the card fee in euros.",
    "A lost card: when the office is closing, the statement is free.",
    "Opening days of the school: one day a year.",
]


def chunks_of_texts(texts=TEXTS):
    """A chunk of each text, in a document each."""
    return [
        {"chunk_id": digest_bytes(text.encode()), "document_id": f"d{n}", "source": f"{n}.md", "title": "",
         "heading_path": [], "ordinal": 0, "text": text}
        for n, text in enumerate(texts)
    ]  # fmt: skip


def publish_dataset(registry, folder, name="handbook", texts=TEXTS):
    """A dataset of these chunks."""
    folder.mkdir(parents=True)
    rows = chunks_of_texts(texts)
    write_rows(folder / CHUNKS_FILE, rows, schema=CHUNKS)
    return registry.publish("dataset", name, folder=folder, inputs={"name": name}, facts={"num_chunks": len(rows)})


def publish_retriever(
    registry, folder, *, parents=(), name="tuned", facts=None, reranks=False, asks=False, learnt=None, **shape
):
    """A retriever whose encoder has a shape; ``facts`` go over what is true.

    Its re-ranker is random, too, and so is, where it ``asks``, another encoder, of questions. ``learnt``: what BM25 is
    built with.
    """
    write_encoder(folder / "encoder", **shape)
    said = {"encoder": digest_of(folder / "encoder"), "dim": shape.get("dim", 32), "reranker": None}
    if reranks:
        write_encoder(folder / "reranker", num_labels=1, seed=7)
        said |= {"reranker": reranker_digest(folder / "reranker"), "search": {"rerank_weight": 1.0, "rerank_depth": 3}}
    if asks:
        write_encoder(folder / "questions", **shape | {"seed": 9})
        said["question_encoder"] = digest_of(folder / "questions")
    if learnt:
        said["words"] = learnt.write(folder)
    inputs = {"shape": shape, "facts": facts or {}}
    return registry.publish(
        "retriever", name, folder=folder, inputs=inputs, parents=list(parents), facts=said | (facts or {})
    )


def build_index(registry, dataset, **given):
    """An index as jobs.index builds it, but that the encoder runs here instead of in an actor; ``how`` are settings."""

    def embed(texts):
        return find_source(given.get("retriever"), registry=registry).load_encoder().encode_apart(texts)

    name = given.pop("name", dataset.name)
    settings = RetrievalSettings(**given.pop("how", {}))
    return pipeline.build_index(dataset, name=name, registry=registry, settings=settings, embed=embed, **given)
