"""What a model costs, how long it takes and how much it can read, so that a router asks none that cannot do it.

Guarantees: pure. Not guaranteed: the exact number of tokens of a prompt: the router has no tokeniser and goes by the
characters that a token had on the rows that it was trained on.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

CHARS_PER_TOKEN = 3.0
"""Where nothing was measured; English has about four."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model on a router's ladder; None: no limit is known."""

    usd_per_1k_tokens: float = 0.0
    context_tokens: int | None = None
    """Prompt and answer together."""
    seconds_per_answer: float | None = None
    """As its evaluation measured it."""
    chars_per_token: float = CHARS_PER_TOKEN

    def objection(self, *, num_chars: int, max_new_tokens: int, deadline_s: float | None) -> str:
        """Why a request cannot be answered by it; empty when it can."""
        tokens = math.ceil(num_chars / self.chars_per_token) + max_new_tokens
        if self.context_tokens is not None and tokens > self.context_tokens:
            return f"about {tokens} tokens, its context holds {self.context_tokens}"
        if deadline_s is not None and self.seconds_per_answer is not None and self.seconds_per_answer > deadline_s:
            return f"it takes {self.seconds_per_answer:.2f} s, {deadline_s:.2f} s are allowed"
        return ""

    def to_json(self) -> dict[str, Any]:
        """The card as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave; TypeError or ValueError where it is none."""
        card = cls(**value)
        if not card.chars_per_token > 0 or card.usd_per_1k_tokens < 0:
            raise ValueError("a model's card is out of range")
        return card
