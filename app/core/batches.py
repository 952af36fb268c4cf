"""Long lists in pieces."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def batched(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of ``size``, in order; the last may be shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
