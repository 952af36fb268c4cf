"""Settings of the retrieval stage."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from app.core.settings import Settings

Label = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Weight = Annotated[float, Field(ge=0, le=1)]


class LexicalSettings(Settings):
    """How words are matched (BM25)."""

    language: str = "english"
    """Language of the Snowball stemmer; ``none``: words are taken as they are. English stop words go with english."""

    k1: PositiveFloat = 0.6
    """How fast repetitions of a word stop counting; with pairs, less than the usual 1.2 was better or equal on rules,
    health pages and encyclopaedia."""

    b: Annotated[NonNegativeFloat, Field(le=1)] = 0.75
    """How much a long chunk is held against it."""

    pair_weight: NonNegativeFloat = 0.4
    """Weight of a pair of neighbouring words beside a word; 0: pairs are not counted."""

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
    the question's words that the title takes (``app/retrieval/titles.py``); calibration may replace it."""

    num_candidates: PositiveInt = 100
    """Chunks that each part puts forward; every one of them gets both scores."""

    rerank_depth: PositiveInt = 20
    """Chunks that a re-ranker scores anew, where there is one; a tuned retriever brings its own depth."""

    rerank_weight: Weight = 0.5
    """Weight of the re-ranker against the fused score; a tuned retriever brings its own."""


class TuneSettings(Settings):
    """How an encoder and a re-ranker are tuned on questions whose chunks are known."""

    seed: int = 0
    """Seed of the split, the order and the negatives."""

    held_out_share: Annotated[float, Field(gt=0, le=0.5)] = 0.12
    """Share of the questions that is not trained on: averaging, weights and depth are chosen on it."""

    max_held_out: PositiveInt = 250
    """At most so many questions are held out."""

    max_pairs: PositiveInt = 20_000
    """At most so many questions are trained on, evenly taken from all."""

    negatives_from: PositiveInt = 50
    """Hard negatives are taken from so many of the best hits of the index's own hybrid search."""

    max_lead: NonNegativeFloat = 0.5
    """A hit whose fused score (0 to 1) is above that of the chunk that answers by more is taken for another answer that
    nobody marked, and is no negative."""

    max_overlap: Annotated[float, Field(gt=0, le=1)] = 0.8
    """A hit that shares a larger part of its words with a chunk that answers is taken for its twin (Jaccard)."""

    encoder_epochs: Annotated[NonNegativeFloat, Field(le=100)] = 5.0
    """How often the encoder of questions sees every question; of its chunks one, in turn."""

    encoder_batch: PositiveInt = 64
    """Questions of an encoder's step."""

    encoder_chunks: PositiveInt = 50_000
    """Chunks whose vectors are an encoder's step's negatives; of a larger index those that answer or are found, and of
    the others evenly."""

    encoder_learning_rate: PositiveFloat = 1e-4
    """The highest rate; it rises over a tenth of the steps and falls to 0."""

    encoder_shares: tuple[Weight, ...] = (0.0, 0.5, 1.0)
    """Shares of the tuned weights in the average with the base's, of which the best is taken; 0 is the base alone."""

    reranker_epochs: Annotated[NonNegativeFloat, Field(le=100)] = 1.0
    """How often the re-ranker sees every question; 0: there is no re-ranker."""

    reranker_batch: PositiveInt = 8
    """Questions of a re-ranker's step."""

    reranker_negatives: PositiveInt = 5
    """Hard negatives beside every chunk that answers, drawn anew in every epoch."""

    reranker_learning_rate: PositiveFloat = 1e-4
    """The highest rate of the re-ranker."""

    rerank_depths: tuple[PositiveInt, ...] = (5, 10, 20)
    """Depths of which the least is taken that is as good as the best, within one standard error."""

    learn_asked: bool = True
    """Whether the words of questions are counted in the chunks that answer them, where held-out questions gain."""

    term_epochs: Annotated[NonNegativeFloat, Field(le=100)] = 3.0
    """How often every question is seen to learn weights of BM25's words and pairs; 0: there are none."""

    term_learning_rate: PositiveFloat = 0.02
    """The rate of their logarithms."""

    term_decay: NonNegativeFloat = 1e-4
    """How much of their square is added to the loss: it keeps rare words near 1."""

    max_tokens: Annotated[PositiveInt, Field(ge=8)] = 160
    """Texts, and pairs of a question and a text, are cut to so many tokens in training."""

    num_checkpoints: PositiveInt = 6
    """Checkpoints over the run."""

    num_workers: PositiveInt = 2
    """Processes that train, each on its part of every batch."""

    num_threads: PositiveInt = 1
    """Threads of each."""

    worker_memory_bytes: PositiveInt = 2 << 30
    """Memory that Ray reserves for each."""

    max_failures: NonNegativeInt = 2
    """How often workers may die before the run fails."""

    start_timeout_s: PositiveInt = 300
    """How long workers may take to find each other."""

    def inputs(self) -> dict[str, Any]:
        """What decides the weights, as JSON."""
        how = {"num_threads", "worker_memory_bytes", "max_failures", "start_timeout_s", "num_checkpoints"}
        return self.model_dump(mode="json", exclude=how)


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

    max_shard_vectors: PositiveInt = 1_000_000
    """Vectors in one part of an index; a larger index is divided at the bounds of documents, and its parts may be
    served by several replicas (``shard_replicas`` of the serving application)."""

    lexical: LexicalSettings = LexicalSettings()
    """Matching of words."""

    search: SearchSettings = SearchSettings()
    """Fusion of words and vectors."""

    tune: TuneSettings = TuneSettings()
    """Tuning of encoder and re-ranker."""

    batch_size: PositiveInt = 256
    """Texts handed to an embedding actor at a time."""

    num_workers: PositiveInt = 1
    """Embedding actors."""

    worker_memory_bytes: PositiveInt = 768 << 20
    """Memory that Ray reserves for an embedding actor."""

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of a version."""
        return self.model_dump(mode="json", exclude={"batch_size", "num_workers", "worker_memory_bytes", "tune"})
