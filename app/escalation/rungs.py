"""From evaluations to rungs, and the rung that needs no training: retrieval and a quotation.

Guarantees: every rung's figures come from an evaluation of the same kind. Not guaranteed: that a quotation can match a
short answer exactly; ``contains`` tells whether it holds it.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from app.core.statistics import Interval
from app.core.workspace import Workspace
from app.escalation.ladder import Measured, running_cost_usd
from app.escalation.settings import LadderSettings
from app.registry.versions import Version, open_registry


class Quotations:
    """Answers questions with the best sentences of the passages found; picklable, opens its index on first use."""

    def __init__(self, workspace: Workspace, index: str, *, top_k: int = 4) -> None:
        self.workspace, self.index, self.top_k = workspace, index, top_k

    def __call__(self, questions: Sequence[str]) -> list[str]:
        from app.inference.reader import read_extract

        encoder, searcher = self._opened
        found = searcher.search(list(questions), self.top_k)
        return [read_extract(question, hits, encoder).text for question, hits in zip(questions, found, strict=True)]

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        from app.inference.encoder import ENCODER_DIGEST, Encoder
        from app.retrieval.searcher import Searcher

        registry = open_registry(self.workspace)
        searcher = Searcher.open(registry.get("index", self.index), registry=registry)
        pinned = searcher.encoder.digest == ENCODER_DIGEST
        return searcher.encoder if pinned else Encoder(), searcher  # the reader's thresholds are the pinned encoder's

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("workspace", "index", "top_k")}


def measured(rung: str, evaluation: Version, *, cost_build_usd: float, settings: LadderSettings) -> Measured:
    """A rung of the ladder from its evaluation on the target suite."""
    facts = evaluation.facts
    return Measured(
        rung=rung,
        quality=Interval(**facts[settings.metric]),
        token_f1=facts["token_f1"]["value"],
        contains=facts["contains"]["value"],
        cost_build_usd=cost_build_usd,
        cost_per_1000_usd=running_cost_usd(facts["seconds_per_question"], settings=settings),
    )
