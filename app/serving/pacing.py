"""Pieces of an answer put together, so that a stream costs messages by the second and not by the token.

A piece passes through a replica, a gateway and a proxy before a user sees it, and streams have less throughput than
whole answers (`python -m benchmarks.serving` measures both). Guarantees: the first piece goes at once, a later one at
most an interval after it came; texts and tokens are those that came, in order, before an error too; the last carries
the whole.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from app.inference.sampling import Delta


async def paced(pieces: AsyncGenerator[Delta], *, interval_s: float) -> AsyncGenerator[Delta]:
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
                    held, due_s = [], time.monotonic() + interval_s
        finally:
            if coming:
                await _ended(coming)
    if held:
        yield joined(held)
    came.result()  # raises what ended the pieces


async def _ended(coming: "asyncio.Future[Delta | None]") -> None:
    """Wait until what is awaited of the pieces has been given up, so that they can be closed."""
    coming.cancel()
    await asyncio.wait({coming})


def joined(pieces: Sequence[Delta]) -> Delta:
    """Pieces as one."""
    return Delta(
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        whole=pieces[-1].whole,
    )
