import asyncio

import pytest

from app.inference.guarding import Breaker, hedged


def test_a_breaker_opens_after_some_failures_and_lets_one_call_try_again():
    now = [0.0]
    breaker = Breaker(num_failures=2, cool_s=10, clock=lambda: now[0])
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    now[0] = 10.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.failed()
    now[0] = 19.9
    assert not breaker.allows()
    now[0] = 20.0
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True, True, True]


class Calls:
    """Calls that end when they are told to, in the order of ``ends``: a text is an answer, an error is raised."""

    def __init__(self, *ends):
        self.ends, self.made, self.cancelled, self.discarded = ends, 0, [], []

    async def __call__(self):
        number = self.made
        self.made += 1
        end = self.ends[number]
        try:
            if end == "never":
                await asyncio.Event().wait()
            if isinstance(end, Exception):
                raise end
        except asyncio.CancelledError:
            self.cancelled.append(number)
            if number == 9:
                return "too late"
            raise
        return end

    async def discard(self, late):
        self.discarded.append(late)


@pytest.mark.parametrize(
    ("ends", "after_s", "given", "made", "cancelled"),
    [
        (("a", "b"), 60.0, "a", 1, []),
        (("a", "b"), None, "a", 1, []),
        (("never", "b"), 0.0, "b", 2, [0]),
        ((ValueError("first"), "b"), 60.0, "first", 1, []),
        (("never", ValueError("second")), 0.0, "slow", 2, [0]),
    ],
)
def test_the_first_answer_wins_and_the_other_call_is_cancelled(ends, after_s, given, made, cancelled):
    calls = Calls(*ends)

    async def run():
        call = asyncio.ensure_future(hedged(calls, after_s=after_s, discard=calls.discard))
        done, _ = await asyncio.wait([call], timeout=0.2 if given == "slow" else 60)
        if not done:  # one call failed, the other is still waited for
            call.cancel()
            await asyncio.wait([call])
            return "slow"
        return str(call.exception() or call.result())

    assert (asyncio.run(run()), calls.made, calls.cancelled) == (given, made, cancelled)
    assert calls.discarded == []
