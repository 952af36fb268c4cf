"""Waiting for a replica that died to come back.

Guarantees: a call that fails with one of the named errors is made again with growing pauses until the deadline; any
other error passes at once. Calls must be free of side effects, as the first may have run. Not guaranteed: an answer
when the replica stays away longer than the deadline.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from app.serving.errors import unavailable

Result = TypeVar("Result")
LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Retry:
    """A policy: which errors mean "the replica is gone", and how long to wait for the next one."""

    errors: tuple[type[BaseException], ...]
    deadline_s: float
    first_pause_s: float

    async def call(self, make: Callable[[], Awaitable[Result]]) -> Result:
        """The result of ``make()``, called again while it fails with one of the errors.

        Raises:
            ApiError: 503, the deadline passed.
        """
        end_s, pause_s = time.monotonic() + self.deadline_s, self.first_pause_s
        while True:
            try:
                return await make()
            except self.errors as error:
                if time.monotonic() + pause_s > end_s:
                    message = f"a replica did not come back within {self.deadline_s:.0f} s: try again, or read its log"
                    raise unavailable(message, code="replica_unavailable") from error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
