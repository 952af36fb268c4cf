"""Versions kept in memory, by digest: the least recently used one goes first.

Guarantees: a version is loaded once however many threads ask at the same time; at most ``limit`` stay. Not guaranteed:
that the memory of one that went is free at once, as a running request may still hold it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Loaded(Generic[Item]):
    """A small cache in front of a loader."""

    def __init__(self, load: Callable[[str], Item], *, limit: int) -> None:
        self._load, self._limit = load, limit
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def get(self, digest: str) -> Item:
        """The version of that digest, loaded when it is not in memory yet; versions in memory do not wait for it."""
        if (found := self.find(digest)) is not None:
            return found
        with self._loading:
            if (found := self.find(digest)) is not None:
                return found
            item = self._load(digest)
            with self._lock:
                self._items[digest] = item
                while len(self._items) > self._limit:
                    self._items.popitem(last=False)
            return item

    def forget(self, digest: str) -> None:
        """Load that version anew when it is asked for again."""
        with self._lock:
            self._items.pop(digest, None)

    def find(self, digest: str) -> Item | None:
        """The version of that digest when it is in memory."""
        with self._lock:
            if digest in self._items:
                self._items.move_to_end(digest)
            return self._items.get(digest)

    def items(self) -> list[Item]:
        """What is in memory."""
        with self._lock:
            return list(self._items.values())

    def __len__(self) -> int:
        return len(self._items)
