"""What the gateway counts, for ``/metrics`` in Prometheus' text format; one registry for each gateway."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.serving.errors import ApiError
from app.serving.requests import Asked
from app.serving.responses import AnyResponse

LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class Telemetry:
    """Counters and histograms of one gateway."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._known: dict[tuple[Any, ...], Any] = {}
        self._events = Counter("signalbox_gateway", "Answers by status and route.", ["event"], registry=registry)
        self._latency = Histogram(
            "signalbox_request_seconds",
            "From request to whole answer.",
            ["route"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self._first = Histogram(
            "signalbox_first_token_seconds",
            "From request to the first piece of a live stream.",
            ["route"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self._tokens = Histogram(
            "signalbox_tokens", "Tokens of an answer, all models.", ["route", "kind"], buckets=TOKENS, registry=registry
        )
        self._cost = Counter("signalbox_cost_usd", "Price of the answers.", ["route"], registry=registry)
        self._cache = Counter("signalbox_cache", "Requests that opted in to the cache.", ["state"], registry=registry)
        self._refused = Counter("signalbox_refused", "Refusals by error code.", ["code"], registry=registry)

    def answered(self, response: AnyResponse, asked: Asked, *, cache: str) -> None:
        """An answer went out."""
        account = response.signalbox
        for event in ("status_200", f"route_{account.route}"):
            self._of(self._events, event).inc()
        self._of(self._latency, account.route).observe(account.latency_s)
        self._of(self._tokens, account.route, "prompt").observe(account.num_prompt_tokens)
        self._of(self._tokens, account.route, "completion").observe(account.num_completion_tokens)
        self._of(self._cost, account.route).inc(account.cost_usd)
        if cache != "off":
            self._of(self._cache, cache).inc()

    def began(self, route: str, latency_s: float) -> None:
        """The first piece of a live stream went out."""
        self._of(self._first, route).observe(latency_s)

    def refused(self, error: ApiError) -> None:
        """A request was refused."""
        self._of(self._events, f"status_{error.status}").inc()
        self._of(self._refused, error.code or error.kind).inc()

    def _of(self, metric: Any, *labels: str) -> Any:
        """The metric with these labels; looked up once, as Prometheus' library takes a lock for it."""
        key = (id(metric), *labels)
        if key not in self._known:
            self._known[key] = metric.labels(*labels)
        return self._known[key]

    def text(self, *, num_logged: int, num_dropped: int) -> str:
        """``/metrics``."""
        log = [("logged", num_logged), ("log_dropped", num_dropped)]
        lines = [f'signalbox_request_log_total{{event="{event}"}} {count}' for event, count in log]
        return "\n".join(
            [generate_latest(self._registry).decode() + "# TYPE signalbox_request_log_total counter", *lines, ""]
        )
