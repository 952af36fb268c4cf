"""Calls to servers that may be slow or down: a circuit breaker, and a second try beside the first.

Source of the second try: Dean and Barroso 2013, "The Tail at Scale" (hedged requests). Source of the breaker: Nygard
2007, "Release It!".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


class Breaker:
    """Keeps calls from a server that fails: open after some failures in a row, and one call to try it now and then.

    Args:
        num_failures: failures in a row after which calls are kept away.
        cool_s: how long, before one call may try again.
        clock: seconds, for tests.
    """

    def __init__(self, *, num_failures: int, cool_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._cool_s, self._clock = num_failures, cool_s, clock
        self._failed, self._until_s = 0, 0.0

    def allows(self) -> bool:
        """Whether a call may go out now; while the breaker is open, one may each time it has cooled down."""
        if self._failed < self._most:
            return True
        if self._clock() < self._until_s:
            return False
        self._until_s = self._clock() + self._cool_s
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self._failed = 0

    def failed(self) -> None:
        """A call was not."""
        self._failed += 1
        self._until_s = self._clock() + self._cool_s


async def hedged(
    call: Callable[[], Awaitable[Result]],
    *,
    after_s: float | None,
    discard: Callable[[Result], Awaitable[None]] | None = None,
) -> Result:
    """The first answer of a call, and of the same call made once more when the first takes long.

    Args:
        after_s: how long to wait before the second; None: there is none.
        discard: what is done with the answer that came too late.

    Raises:
        Exception: what the last one of them raised, when none was answered.
    """
    running, answered = [asyncio.ensure_future(call())], None
    try:
        if after_s is not None and not (await asyncio.wait(running, timeout=after_s))[0]:
            running.append(asyncio.ensure_future(call()))
        answered = await _first(running)
    finally:
        for each in running:
            each.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
        for each, late in zip(running, ended, strict=True):
            if each is not answered and discard is not None and not isinstance(late, BaseException):
                await discard(late)
    return answered.result()


async def _first(running: Sequence[asyncio.Future[Result]]) -> asyncio.Future[Result]:
    """The first that was answered; what failed is passed over while another may still be."""
    waiting: set[asyncio.Future[Result]] = set(running)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = [each for each in running if each in done and not each.cancelled() and each.exception() is None]
        if answered or not waiting:
            return (answered or [*done])[0]
