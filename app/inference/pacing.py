"""Pieces of an answer put together, so that a stream costs messages by the second and not by the token.

A piece passes through a replica, a gateway and a proxy before a user sees it, and each costs all of them the same
however long it is (`python -m benchmarks.serving` measures streams beside whole answers). So a replica sends at most so
many pieces a second, whatever the number of its streams. Guarantees of ``paced``: the first piece goes at once, a later
one at most an interval after it came; texts and tokens are those that came, in order, before an error too; the last
carries the whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

from app.inference.sampling import Delta

Pace = Callable[[], float]
"""Seconds to the next piece, asked when one goes out."""


def at_once() -> float:
    """Every token goes on its own way."""
    return 0.0


class Pacer:
    """The pace of all streams of one replica.

    Args:
        least_s: between two pieces of a stream.
        most_s: the same, however many streams there are.
        pieces_per_s: of all streams together, as far as ``most_s`` allows.
    """

    def __init__(self, *, least_s: float, most_s: float, pieces_per_s: float) -> None:
        self._least_s, self._most_s, self._pieces_per_s = least_s, most_s, pieces_per_s
        self._num_streams = 0

    @contextmanager
    def stream(self) -> Iterator[Pace]:
        """One stream more, for as long as the context lasts; gives its pace, which changes with the number of them."""
        self._num_streams += 1
        try:
            yield self._interval_s
        finally:
            self._num_streams -= 1

    def _interval_s(self) -> float:
        wanted_s = max(self._least_s, self._num_streams / self._pieces_per_s)
        return max(self._least_s, min(wanted_s, self._most_s))


async def paced(pieces: AsyncGenerator[Delta], *, pace: Pace) -> AsyncGenerator[Delta]:
    """The same answer in at most one piece an interval; closing this closes ``pieces``."""
    held, due_s = list[Delta](), 0.0
    coming: asyncio.Future[Delta | None] | None = None
    async with aclosing(pieces):
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(pieces, None))
                wait_s = max(0.0, due_s - time.monotonic()) if held else None
                if (await asyncio.wait({coming}, timeout=wait_s))[0]:
                    came, coming = coming, None
                    if came.exception() or (piece := came.result()) is None:
                        break
                    held.append(piece)
                if held and (held[-1].whole or time.monotonic() >= due_s):
                    yield joined(held)
                    held, due_s = [], time.monotonic() + pace()
        finally:
            if coming:
                await _ended(coming)
    if held:
        yield joined(held)
    came.result()  # raises what ended the pieces


async def _ended(coming: asyncio.Future[Delta | None]) -> None:
    """Wait until what is awaited of the pieces has been given up, so that they can be closed."""
    coming.cancel()
    await asyncio.wait({coming})


def joined(pieces: Sequence[Delta]) -> Delta:
    """Pieces as one."""
    return Delta(
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        tool_calls=tuple(call for piece in pieces for call in piece.tool_calls),
        num_passages=pieces[-1].num_passages,
        whole=pieces[-1].whole,
    )
