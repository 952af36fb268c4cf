"""The answers of a completion, one or several; the router chooses once for all of them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from app.retrieval.filters import Scope
from app.routing.course import Circumstances
from app.serving.cascade import PLAIN, Answer, Backends, answer
from app.serving.plan import Plan
from app.serving.release import EXTRACTIVE, ROUTED
from app.serving.requests import Completion
from app.serving.steering import Steering

TOOLS_UNKNOWN = "the request brings tools, and no router was trained on what they give"
"""Why the largest model alone answers; what it says or calls goes out as it is."""


class Choices:
    """Asks for as many answers as a plan says."""

    def __init__(self, plan: Plan, backends: Callable[[int], Backends], *, top_k: int, scope: Scope) -> None:
        """Take the plan; ``backends`` gives those that the choice of a number sees."""
        self._plan, self._backends, self._top_k, self._scope = plan, backends, top_k, scope

    async def answers(self, request: Completion, steering: Steering, *, authorization: str | None) -> list[Answer]:
        """The answers, in order: the first by the router, if it is asked, the others by its choice, judged like it."""
        asked, rungs, first = self._plan.asked, self._plan.rungs, list[Answer]()
        if not rungs:
            return _copies(await self._answer(0, asked.model, []), asked.num_choices)
        model = asked.model
        if self._plan.routed:
            longest = asked.sampling.max_new_tokens
            about = await steering.begin(
                request, self._plan.release, max_new_tokens=longest, authorization=authorization
            )
            about = replace(about, void=TOOLS_UNKNOWN) if self._plan.brings_tools else about
            first = [await self._answer(0, ROUTED, rungs, about)]
            steering.end(request, first[0], authorization=authorization)
            if first[0].route == EXTRACTIVE:
                return _copies(first[0], asked.num_choices)
            model, rungs = first[0].route, [first[0].route]
        places = range(len(first), asked.num_choices)
        return first + await _all([self._answer(place, model, rungs) for place in places])

    async def _answer(self, place: int, model: str, rungs: Sequence[str], about: Circumstances = PLAIN) -> Answer:
        return await answer(
            self._plan.asked.conversation,
            release=self._plan.release,
            requested=model,
            rungs=rungs,
            backends=self._backends(place),
            top_k=self._top_k,
            sampling=self._plan.sampling_of(place),
            scope=self._scope,
            circumstances=about,
            judged=self._plan.routed,
            trusted=self._plan.brings_tools,
        )


def _copies(given: Answer, number: int) -> list[Answer]:
    """The same extract as several choices; what it took is counted once."""
    return [given, *(replace(given, tried=[]) for _ in range(number - 1))]


async def _all(work: Sequence[Any]) -> list[Answer]:
    """The results of coroutines that run side by side; when one fails, the others are ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
