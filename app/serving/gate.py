"""How many completions a gateway holds at once: the one that is too many is refused at once, before memory grows."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.serving.errors import overloaded


class Gate:
    """Counts what is under way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.num_inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place for the length of the block.

        Raises:
            ApiError: 503, there is none.
        """
        if self.num_inside >= self._limit:
            raise overloaded(self._limit)
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1
