import asyncio

import pytest

from app.serving.errors import ApiError
from app.serving.retry import Retry


class Gone(Exception):
    """The replica died."""


def call(failures, error=Gone, deadline_s=5.0):
    """Number of calls that were made until one passed."""
    made = []

    async def make():
        made.append(1)
        if len(made) <= failures:
            raise error("gone")
        return "answer"

    retry = Retry((Gone,), deadline_s, 0.001)
    assert asyncio.run(retry.call(make)) == "answer"
    return len(made)


@pytest.mark.parametrize("failures", [0, 1, 6])
def test_a_call_is_made_again_until_it_passes(failures):
    assert call(failures) == failures + 1


def test_another_error_passes_at_once():
    with pytest.raises(KeyError):
        call(1, error=KeyError)


def test_after_the_deadline_it_is_a_503():
    with pytest.raises(ApiError, match="did not come back") as caught:
        call(100, deadline_s=0.02)
    assert caught.value.status == 503
