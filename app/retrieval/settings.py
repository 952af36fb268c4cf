"""Settings of the retrieval stage."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from app.core.settings import Settings

Label = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Weight = Annotated[float, Field(ge=0, le=1)]


class LexicalSettings(Settings):
    """How words are matched (BM25)."""

    language: str = "english"
    """Language of the Snowball stemmer; ``none``: words are taken as they are. English stop words go with english."""

    k1: PositiveFloat = 1.2
    """How fast repetitions of a word stop counting."""

    b: Annotated[NonNegativeFloat, Field(le=1)] = 0.75
    """How much a long chunk is held against it."""

    headings: bool = True
    """Match a chunk's title and heading path together with its text."""


class SearchSettings(Settings):
    """How the two parts of a search become one ranking."""

    fusion: Literal["convex", "rrf", "dense", "lexical"] = "convex"
    """``convex``: weighted sum of per-query normalised scores; ``rrf``: reciprocal ranks; else one part alone."""

    dense_weight: Weight = 0.35
    """Weight of the cosine against BM25 in ``convex``; calibration replaces it. The default lies on the plateau of
    rules, health pages and encyclopaedia alike (benchmarks/results/retrieval_*.json)."""

    title_weight: Weight = 0.3
    """What is added in ``convex`` where a question names the title of a document that is one chunk, at the share of
    the question's words that the title takes (``app/retrieval/titles.py``)."""

    num_candidates: PositiveInt = 100
    """Chunks that each part puts forward; every one of them gets both scores."""

    rerank_depth: PositiveInt = 20
    """Chunks that a re-ranker scores anew, where there is one; a tuned retriever brings its own depth."""

    rerank_weight: Weight = 0.5
    """Weight of the re-ranker against the fused score; a tuned retriever brings its own."""


class RetrievalSettings(Settings):
    """How chunks are embedded and indexed."""

    embed_headings: bool = True
    """Embed a chunk's heading path together with its text; off for corpora whose text names its subject itself."""

    window_tokens: Annotated[int, Field(ge=64)] = 128
    """Length of the windows in which a chunk is embedded that is longer than the encoder takes."""

    window_overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.125
    """Share of a window that the next one repeats."""

    access_labels: dict[str, tuple[Label, ...]] = Field(default_factory=dict)
    """Labels by patterns of sources, such as ``hr/*``, beside those that documents bring; ``*`` matches slashes too. A
    chunk gets the labels of every pattern that fits its source, and is seen by who holds all of them."""

    kind: Literal["auto", "flat", "hnsw", "ivf", "ivf-rabitq"] = "auto"
    """Index of the vectors; ``auto`` takes one by the number of chunks."""

    lexical: LexicalSettings = LexicalSettings()
    """Matching of words."""

    search: SearchSettings = SearchSettings()
    """Fusion of words and vectors."""

    batch_size: PositiveInt = 256
    """Texts handed to an embedding actor at a time."""

    num_workers: PositiveInt = 1
    """Embedding actors."""

    worker_memory_bytes: PositiveInt = 768 << 20
    """Memory that Ray reserves for an embedding actor."""

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of a version."""
        return self.model_dump(mode="json", exclude={"batch_size", "num_workers", "worker_memory_bytes"})
