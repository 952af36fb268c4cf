"""What a completion comes to under one release: which models, with which parameters, and what to reserve for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.inference.sampling import TOOLS, Sampling
from app.serving.cascade import Backends
from app.serving.limits import Amounts
from app.serving.release import ROUTED, Release
from app.serving.requests import NAMES, Asked, check_end, lacking
from app.serving.structured import ResponseFormat

BYTES_PER_TOKEN = 3
TEMPLATE_TOKENS = 16
"""What is reserved for a prompt: a token for every three bytes, and some for the form of each turn."""
PASSAGE_TOKENS = 256
"""What is reserved for a passage that a model is given; what it took is settled afterwards."""
GRANT_TOKENS = 64
"""How much of an answer is reserved at a time while it is streamed."""
SHAPING = ("stop", "num_logprobs", "schema", *TOOLS)
"""What an extract, which draws nothing, cannot do; the other parameters change nothing about it."""


@dataclass(frozen=True)
class Plan:
    """A completion as it will be answered.

    Args:
        rungs: models to ask, cheapest first; none for an extract.
        constrained: whether the engines hold answers to the schema by themselves.
    """

    asked: Asked
    release: Release
    rungs: Sequence[str]
    constrained: bool = True

    @property
    def routed(self) -> bool:
        """Whether the router chooses."""
        return self.asked.model == ROUTED

    @property
    def streams(self) -> bool:
        """Whether the answer can go out while it comes: one model was named, and its answer needs no second look."""
        return self.asked.stream and len(self.rungs) == 1 and not self.routed and self.asked.format.schema is None

    @property
    def brings_tools(self) -> bool:
        """Whether the answer may call tools, or comes from what they gave: nothing here can judge it then."""
        return bool(self.asked.sampling.tools) or self.asked.conversation.calls_tools

    @property
    def repairs(self) -> bool:
        """Whether the form of the answer has to be asked for in words."""
        return self.asked.format.schema is not None and not self.constrained

    @property
    def num_prompt_tokens(self) -> int:
        """An estimate."""
        num_bytes = self.asked.conversation.num_bytes + len(self.release.prompt.encode())
        num_bytes += len(self.asked.described.encode())
        num_turns = len(self.asked.conversation.messages)
        num_passages = self.release.context_passages
        found = PASSAGE_TOKENS * (num_passages + 1) if num_passages else 0  # what says that they are quoted is as long
        return math.ceil(num_bytes / BYTES_PER_TOKEN) + TEMPLATE_TOKENS * num_turns + found

    def estimate(self, *, live: bool) -> Amounts:
        """What is reserved before the answer begins; of a live one only its beginning."""
        longest = self.asked.sampling.max_new_tokens
        answered = min(longest, GRANT_TOKENS) if live else longest
        num_asked = self.asked.num_choices * (2 if self.repairs else 1)
        return self.priced((self.num_prompt_tokens + answered) * num_asked)

    def priced(self, num_tokens: int) -> Amounts:
        """So many tokens of every model that may be asked."""
        price = sum(self.release.price(rung) for rung in self.rungs)
        return Amounts(num_tokens * len(self.rungs), num_tokens * price / 1000)

    def sampling_of(self, place: int) -> Sampling:
        """How the choice of that number is drawn: with a seed of its own."""
        sampling = self.asked.sampling
        if sampling.seed is None or not place:
            return sampling
        return replace(sampling, seed=(sampling.seed + place + 2**63) % 2**64 - 2**63)


async def plan_of(asked: Asked, release: Release, rungs: Sequence[str], backends: Backends) -> Plan:
    """Refuse, or drop, what the models lack; of a routed request's models those with tools stay, where it brings some.

    Raises:
        ApiError: a model lacks what is asked for, and the request does not say that it may be dropped.
    """
    sampling = asked.sampling
    names = [name for name in SHAPING if name in sampling.asked] if not rungs else []
    lacked = {rung: await backends.lacks(rung, release.models[rung].digest, sampling) for rung in rungs}
    if asked.model == ROUTED and "tools" in sampling.asked:
        lacked = {rung: fields for rung, fields in lacked.items() if "tools" not in fields} or lacked
        rungs = list(lacked)
    names += [name for fields in lacked.values() for name in fields]
    constrained = not rungs or "schema" not in names
    if rungs:
        names = [name for name in names if name != "schema"]
    shown = tuple(dict.fromkeys(NAMES.get(name, name) for name in names))
    if shown and not asked.drop:
        raise lacking(shown[0], f"by the model {asked.model!r}")
    form = ResponseFormat() if "schema" in names else asked.format
    said = asked.conversation.without_tools() if "tools" in names else asked.conversation
    check_end(said.messages)
    kept = replace(
        asked, conversation=said, sampling=sampling.without(names), format=form, dropped=(*asked.dropped, *shown)
    )
    return Plan(kept, release, rungs, constrained)
