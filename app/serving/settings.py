"""Settings of the serving application; they are the ``args`` of its Serve config."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from app.core.settings import Settings


class ServingSettings(Settings):
    """How questions are answered and requests are logged."""

    authorities: tuple[str, ...] = ()
    """Hosts that signed requests are for, such as `signalbox.example.org` (any port) or `box:8000`; others are refused,
    so that nobody passes them on from there. Empty: this machine's loopback, and what $SIGNALBOX_URL names."""

    workspace: str | None = None
    """Folder of the workspace; default: $SIGNALBOX_WORKSPACE of the cluster, else ./.signalbox."""

    top_k: PositiveInt = 4
    """Passages retrieved for a question."""

    max_new_tokens: PositiveInt = 32
    """Upper bound of an answer, in tokens; a request may ask for fewer."""

    max_body_bytes: PositiveInt = 8 * 2**20
    """Largest body of a request; a larger one is refused before it is read whole."""

    max_file_bytes: PositiveInt = 100 * 2**20
    """Largest file of a batch (`/v1/files`)."""

    max_bodies_bytes: PositiveInt = 256 * 2**20
    """Bodies of all requests that one gateway has under way, together; beyond that it refuses."""

    body_timeout_s: PositiveFloat = 30.0
    """How long a client may take to send a body; for a file in proportion to its larger limit."""

    max_prompt_characters: PositiveInt = 400_000
    """Longest conversation, all turns together; what a model reads at most, its engine says."""

    max_queued_requests: PositiveInt = 256
    """Completions that one gateway holds at once, those that wait for an engine too; beyond that it refuses."""

    request_timeout_s: PositiveFloat = 120.0
    """How long a completion may take; a stream is ended then, with what was said."""

    stream_stall_s: PositiveFloat = 30.0
    """How long a stream waits for a client that reads nothing, before it is ended."""

    tracing: tuple[Literal["otel", "mlflow"], ...] = ()
    """Where completions are traced: OpenTelemetry's exporter, as the environment's $OTEL_EXPORTER_OTLP_... variables
    say, or the workspace's MLflow."""

    require_key: bool = False
    """Refuse completions, searches and embeddings for whoever shows no granted key."""

    limits_refresh_s: NonNegativeFloat = 1.0
    """How often the gateway looks whether limits were changed."""

    cache_bytes: PositiveInt = 64 * 2**20
    """Answers that one gateway keeps for requests that opt in."""

    cache_ttl_s: PositiveFloat = 300.0
    """How long an answer is kept."""

    cache_similarity: PositiveFloat = 0.95
    """Least cosine of two questions that the semantic cache takes for the same."""

    further_rungs: tuple[str, ...] = ()
    """Names of models between small and large that releases may have; each gets a deployment of its own."""

    max_loaded: PositiveInt = 3
    """Versions of a model or an index that a replica keeps in memory; the least recently used goes first."""

    shard_replicas: NonNegativeInt = 0
    """Replicas among which the shards of a divided index (``retrieval.max_shard_vectors``) are dealt out; each keeps
    its own in memory, and a question is asked of all. 0: every replica of the retriever holds every shard."""

    search_in_gateway: bool | None = None
    """Whether a gateway searches by itself, which spares a hop between processes and costs it the index (mapped from
    its file) and an encoder in memory; the retriever then only embeds. Default: yes, unless ``shard_replicas`` says
    that the index is divided among others."""

    num_threads: PositiveInt = 1
    """Threads of the text engine and the encoder in one replica."""

    max_rows: PositiveInt = 32
    """Answers that one engine draws together; more wait for a place."""

    max_waiting: PositiveInt = 256
    """Requests that wait for a place in one engine; beyond that they are refused, and may be sent again."""

    share_base: bool = False
    """Keep one copy of a model in memory for all adapters on it, and answer for several in one batch. Saves memory and
    costs time: a merged adapter adds nothing to a step. Off: each is merged into a copy of its own."""

    prefix_tokens: NonNegativeInt = 16_384
    """Tokens of prompts' beginnings that one engine remembers the keys and values of; 0: none."""

    max_batch_tokens: PositiveInt = 131_072
    """Tokens that the answers under way may come to, each counted as the longest; the cache grows by
    doubling, to a few times this at most."""

    device: str = "cpu"
    """Where text engines compute, as torch names it: `cpu`, `cuda`."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What text engines compute in."""

    stall_after_s: PositiveFloat = 60.0
    """An engine that has work and takes no step for so long is unhealthy: Serve replaces its replica."""

    stream_interval_s: NonNegativeFloat = 0.05
    """Least time between two pieces of a streamed answer, after the first; 0: every token goes on its own way."""

    stream_interval_most_s: NonNegativeFloat = 0.2
    """The same where a replica has many streams under way, whose pieces become longer."""

    stream_pieces_per_s: PositiveFloat = 160.0
    """Pieces that one replica sends in a second, of all its streams; it keeps to it up to the longest interval."""

    retry_deadline_s: PositiveFloat = 40.0
    """How long a request waits for a replica to come back after it died."""

    first_retry_s: PositiveFloat = 0.1
    """Pause before the first retry; every further one is twice as long, up to 2 s."""

    log_flush_s: PositiveFloat = 1.0
    """Longest time that a logged request stays in memory only."""

    log_max_queue: PositiveInt = 10_000
    """Requests waiting for the log's writer; beyond that they are dropped from the log, and counted."""

    ledger_period_s: NonNegativeFloat = 5.0
    """Least time between two ledger entries for flushed parts of the log."""

    explore: float | None = Field(default=None, ge=0, le=0.5)
    """Share of routed requests that chance deals out to the models, for the audit; never more than the router's
    guarantee counted. Null: just that, and none for a router without a guarantee."""

    guarantee_period_s: PositiveFloat = 2.0
    """How often each gateway replica reads from the ledger whether the router's guarantee still stands."""

    answer_deadline_s: PositiveFloat | None = None
    """The router asks no model that takes longer than this for an answer, by its own figures. Null: no limit."""

    resolve_period_s: NonNegativeFloat = 2.0
    """While no release serves, how often the gateway looks whether there is one."""

    @property
    def searches_in_gateway(self) -> bool:
        """What ``search_in_gateway`` comes to."""
        return self.shard_replicas == 0 if self.search_in_gateway is None else self.search_in_gateway

    @model_validator(mode="after")
    def _shards_stand_apart(self) -> "ServingSettings":
        if self.search_in_gateway and self.shard_replicas:
            raise ValueError("search_in_gateway and shard_replicas exclude each other: leave one of them out")
        return self

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of all models that can be served, cheapest first."""
        return ("small", *self.further_rungs, "large")


class ReleaseConfig(Settings):
    """The deployments' ``user_config``."""

    release: str = "assistant@production"
    """Reference or digest of the release to serve."""

    stopped: bool = False
    """What the ledger said when this was deployed; a change makes the gateway ask the ledger, which decides."""

    canary: str = ""
    """Digest of the release that runs as a canary, which every replica then loads too; the gateway asks the ledger."""

    attempt: str = ""
    """Names one deployment, so that deploying the same release again is a change; the gateway's refusal names it."""

    @property
    def releases(self) -> tuple[str, ...]:
        """Every release that replicas load ahead."""
        return tuple(each for each in (self.release, self.canary) if each)
