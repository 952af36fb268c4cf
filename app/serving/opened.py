"""A stream that was opened: its headers, and its events as they come.

Guarantees: what fails before the first piece is an error with a status of its own; whoever stops reading ends the
answer, in its engine too; at most ``MAX_WAITING`` pieces wait for a reader.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, suppress

from app.ledger.receipts import HEADER
from app.serving.errors import ApiError
from app.serving.exchange import Exchange, Piece
from app.serving.responses import Completed
from app.serving.streams import DONE, Chunks, event, whole_stream

MAX_WAITING = 64
Waiting = asyncio.Queue[Piece | None]


class Opened:
    """What goes out: headers, then events. Whoever opened it closes it; one that nobody holds closes itself."""

    def __init__(self, headers: Mapping[str, str], events: AsyncIterator[str], *, close: Callable[[], None]) -> None:
        self.headers, self.events, self._close = headers, events, close

    def close(self) -> None:
        """End what is still running; a second time does nothing."""
        self._close()

    def __del__(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing runs any more
            self._close()


async def open_stream(exchange: Exchange) -> Opened:
    """Begin an answer and give its stream.

    Raises:
        ApiError: the request cannot be met; it is logged.
    """
    with ExitStack() as stack:
        stack.enter_context(exchange.inside())
        await exchange.prepare()
        if not exchange.is_live:
            completed = await exchange.run()
            return Opened(completed.headers, _known(exchange, completed), close=stack.pop_all().close)
        waiting: Waiting = asyncio.Queue(MAX_WAITING)
        running = asyncio.ensure_future(_run(exchange, waiting))
        stack.callback(running.cancel)
        first = await waiting.get()
        if first is None:
            await running
        exchange.began()
        return Opened(exchange.live_headers, _live(exchange, first, waiting, running), close=stack.pop_all().close)


async def _run(exchange: Exchange, waiting: Waiting) -> Completed:
    """The answer, its pieces put where they are read from; None at its end, unless nobody reads any more."""
    try:
        completed = await exchange.run(waiting.put)
    except ApiError:
        await waiting.put(None)
        raise
    await waiting.put(None)
    return completed


async def _known(exchange: Exchange, completed: Completed) -> AsyncIterator[str]:
    for said in whole_stream(completed, exchange.head, include_usage=exchange.plan.asked.include_usage):
        yield said


async def _live(
    exchange: Exchange, first: Piece | None, waiting: Waiting, running: "asyncio.Task[Completed]"
) -> AsyncIterator[str]:
    chunks, length, piece = Chunks(exchange.head, exchange.model), dict[int, int](), first
    for place in range(exchange.plan.asked.num_choices):
        for said in chunks.begin(place):
            yield said
    while piece is not None:
        place, delta = piece
        if delta.text or delta.tokens or delta.tool_calls:
            yield chunks.piece(place, delta.text, delta.tokens, start=length.get(place, 0), calls=delta.tool_calls)
        length[place] = length.get(place, 0) + sum(len(token.text) for token in delta.tokens)
        piece = await waiting.get()
    try:
        completed = await running
    except ApiError as error:
        sealed = {"receipt": error.headers[HEADER]} if HEADER in error.headers else {}
        yield event({**error.body(), **sealed})
        yield DONE
        return
    for said in chunks.end(completed, include_usage=exchange.plan.asked.include_usage, logprobs=False):
        yield said
