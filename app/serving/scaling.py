"""How many replicas a generator gets, by the tokens that its requests may still come to, and by requests that wait.

Requests alone say little: one of 2,000 tokens keeps an engine as busy as sixty of 32. Serve calls the policy with what
the replicas report (``GeneratorDeployment.record_autoscaling_stats``).
"""

import math
from typing import Any, Protocol

TOKENS = "tokens"
"""What replicas report: tokens of prompts and answers in flight, each answer at its bound."""


class Context(Protocol):
    """What Serve tells a policy."""

    aggregated_metrics: dict[str, dict[Any, float]]
    total_num_requests: float


class ByTokens:
    """As many replicas as tokens and requests in flight ask for; Serve keeps its bounds and delays around that.

    Args:
        tokens_per_replica: tokens in flight that one replica is to carry.
        requests_per_replica: requests in flight or in the queue that one replica is to carry.
    """

    def __init__(self, *, tokens_per_replica: float = 8192, requests_per_replica: float = 32) -> None:
        self._tokens, self._requests = tokens_per_replica, requests_per_replica

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """The number of replicas; and no state."""
        tokens = sum((context.aggregated_metrics or {}).get(TOKENS, {}).values())
        return max(math.ceil(tokens / self._tokens), math.ceil(context.total_num_requests / self._requests)), {}
