"""Streams with fewer pieces: nothing lost, the first at once, the last whole, a closed one closed at its source."""

import asyncio
from contextlib import ExitStack

import pytest

from app.inference.pacing import Pacer, at_once, joined, paced
from app.inference.sampling import Delta, Generation, TokenLogprob, calls_of

WORDS = ["one ", "two ", "three ", "four"]
FOR_EVER_S = 3600.0


def whole():
    return Generation(
        text="".join(WORDS), mean_logprob=-1, min_logprob=-1, num_prompt_tokens=1, num_completion_tokens=4
    )


class Source:
    """Pieces that come at once; then, if told so, nothing more ever; an error in their place."""

    def __init__(self, *, hangs=False, error=None):
        self.hangs, self.error, self.closed = hangs, error, False

    async def __call__(self):
        try:
            for word in WORDS:
                yield Delta(text=word, tokens=(TokenLogprob(word, word.encode(), -1.0),))
            if self.error:
                raise self.error
            if self.hangs:
                await asyncio.Event().wait()
            yield Delta(whole=whole())
        finally:
            self.closed = True


def collect(source, interval_s):
    async def run():
        return [piece async for piece in paced(source(), pace=lambda: interval_s)]

    return asyncio.run(run())


def test_without_an_interval_every_piece_passes():
    assert [piece.text for piece in collect(Source(), 0.0)] == [*WORDS, ""]


def test_within_an_interval_pieces_are_one_and_the_first_does_not_wait():
    first, rest = collect(Source(), FOR_EVER_S)
    assert (first.text, rest.text) == ("one ", "two three four")
    assert [token.text for token in rest.tokens] == WORDS[1:]
    assert rest.whole == whole()


def test_an_error_passes_after_what_came_before_it():
    seen, source = [], Source(error=ValueError("broken"))

    async def run():
        async for piece in paced(source(), pace=lambda: FOR_EVER_S):
            seen.append(piece.text)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run())
    assert (seen, source.closed) == (["one ", "two three four"], True)


@pytest.mark.parametrize("hangs", [True, False])
def test_one_that_is_closed_is_closed_at_its_source(hangs):
    source = Source(hangs=hangs)

    async def run():
        stream = paced(source(), pace=at_once if hangs else lambda: FOR_EVER_S)
        seen = [await anext(stream) for _ in range(len(WORDS) if hangs else 1)]
        await stream.aclose()
        return seen

    assert asyncio.run(run())[0].text == "one "
    assert source.closed


def test_one_that_is_cancelled_while_it_waits_is_closed_at_its_source():
    source = Source(hangs=True)

    async def run():
        async def read():
            return [piece async for piece in paced(source(), pace=at_once)]

        task = asyncio.create_task(read())
        for _ in range(50):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run())
    assert source.closed


def test_the_more_streams_the_longer_their_pieces_within_bounds():
    pacer, paces = Pacer(least_s=0.05, most_s=0.2, pieces_per_s=100), []
    with ExitStack() as stack:
        for _ in range(30):
            pace = stack.enter_context(pacer.stream())
            paces.append(pace())
    assert [paces[0], paces[9], paces[29]] == [0.05, 0.1, 0.2]
    with pacer.stream() as pace:
        assert pace() == 0.05


def test_pieces_of_calls_are_put_together_too():
    parts = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
    parts += [{"index": 0, "function": {"arguments": each}} for each in ("{", "}")]
    held = joined([Delta(tool_calls=(each,)) for each in parts])
    assert calls_of(held.tool_calls) == ({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},)
