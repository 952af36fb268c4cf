"""The key-value cache of answers under way: rows join and leave between steps without the others being copied.

Every row ends at the same place, so that a step writes one column for all of them, and a row that is shorter has its
beginning masked: for the model it is a left-padded batch, which every causal model of transformers can read.

Guarantees: what a row attends to is its own tokens alone. Not guaranteed: caches of another form (state-space layers,
compressed keys); ``fits`` says whether a model's is of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

FIRST_TOKENS = 128
"""Room of a new cache; whenever rows move, there is room for up to twice the rows and four times the longest."""
KEPT = 16_384
"""Room, rows times tokens, up to which it is kept while there are no rows."""
KINDS = (DynamicLayer, DynamicSlidingWindowLayer)


def fits(cache: Any) -> bool:
    """Whether rows can join and leave a cache of this form."""
    return isinstance(cache, DynamicCache) and all(type(layer) in KINDS for layer in cache.layers)


class Window:
    """Which part of the buffers holds the rows: rows 0 to ``num_rows``, tokens ``start`` to ``end``."""

    def __init__(self) -> None:
        self.num_rows = self.start = self.end = 0

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return self.end - self.start


class WindowLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, in buffers of (rows, heads, tokens, head size)."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window, self.is_initialized = window, True

    def get_seq_length(self) -> int:
        """Tokens of the longest row, before those of the step under way."""
        return self.window.length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's column; all keys and values of the rows come back, as views."""
        rows, start, end = self.window.num_rows, self.window.start, self.window.end
        stop = end + key_states.shape[-2]
        self.keys[:rows, :, end:stop] = key_states
        self.values[:rows, :, end:stop] = value_states
        return self.keys[:rows, :, start:stop], self.values[:rows, :, start:stop]


class RowCache(Cache):  # type: ignore[misc]
    """Keys, values and mask of the rows under way."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.window = Window()
        self.layers: list[WindowLayer] = []
        self._mask = torch.zeros(0, 0, dtype=torch.long)
        self._lengths: list[int] = []

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of every row."""
        return self._lengths

    def mask(self) -> torch.Tensor:
        """(rows, length + 1): which tokens each row attends to, the step's own one among them."""
        window = self.window
        return self._mask[: window.num_rows, window.start : window.end + 1]

    def begin_step(self) -> None:
        """Make room for one more token of every row."""
        self._reserve(self.window.num_rows, self.window.length, ahead=1)
        self._mask[: self.window.num_rows, self.window.end] = 1

    def end_step(self) -> None:
        """The step's tokens belong to the rows now."""
        self.window.end += 1
        self._lengths = [length + 1 for length in self._lengths]

    def join(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], spans: Sequence[Sequence[slice]]) -> None:
        """Add rows from a cache of their own.

        Args:
            layers: keys and values of (new rows, heads, tokens, head size), layer by layer.
            spans: for each new row, where its tokens lie among those, in order.
        """
        lengths = [sum(span.stop - span.start for span in each) for each in spans]
        first = self.window.num_rows
        self._like(layers)
        self._reserve(first + len(spans), max([self.window.length, *lengths]), ahead=1)
        window = self.window
        window.num_rows, window.start = first + len(spans), window.end - max([window.length, *lengths])
        self._mask[first : window.num_rows, window.start :] = 0
        for row, (length, each) in enumerate(zip(lengths, spans, strict=True)):
            place = window.end - length
            self._mask[first + row, place : window.end] = 1
            for span in each:
                stop = place + span.stop - span.start
                for layer, (keys, values) in zip(self.layers, layers, strict=True):
                    layer.keys[first + row, :, place:stop] = keys[row, :, span]
                    layer.values[first + row, :, place:stop] = values[row, :, span]
                place = stop
        self._lengths += lengths

    def leave(self, row: int) -> None:
        """Drop a row: the last one takes its place."""
        window, last = self.window, self.window.num_rows - 1
        if row != last:
            for layer in self.layers:
                layer.keys[row, :, window.start : window.end] = layer.keys[last, :, window.start : window.end]
                layer.values[row, :, window.start : window.end] = layer.values[last, :, window.start : window.end]
            self._mask[row, window.start :] = self._mask[last, window.start :]
        self._lengths[row] = self._lengths[-1]
        self._lengths.pop()
        window.num_rows = last
        if last:
            window.start = window.end - max(self._lengths)
        else:
            window.start = window.end = 0
            if self._mask.numel() > KEPT:
                self.layers, self._mask = [], self._mask.new_zeros(0, 0)

    def _like(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Layers of the given ones' shape, where there are none yet."""
        for keys, values in layers[len(self.layers) :]:
            layer = WindowLayer(self.window)
            layer.keys, layer.values = (part.new_zeros(0, part.shape[1], 0, part.shape[3]) for part in (keys, values))
            self.layers.append(layer)
        self._mask = self._mask.to(layers[0][0].device)

    def _reserve(self, num_rows: int, length: int, *, ahead: int) -> None:
        """Room for so many rows, whose longest has this length, and for ``ahead`` tokens more."""
        window, (rows, tokens) = self.window, self._mask.shape
        if num_rows <= rows and length <= window.end and window.end + ahead <= tokens:
            return
        rows, tokens = 1 << (num_rows - 1).bit_length(), FIRST_TOKENS
        while tokens < 2 * length + ahead:  # half of it is free for tokens to come: moving the rows pays off
            tokens *= 2
        kept = slice(window.start, window.end)
        place = slice(length - window.length, length)
        for layer in self.layers:
            layer.keys = _moved(layer.keys, (rows, tokens), window.num_rows, kept, place)
            layer.values = _moved(layer.values, (rows, tokens), window.num_rows, kept, place)
        mask = self._mask.new_zeros(rows, tokens)
        mask[: window.num_rows, place] = self._mask[: window.num_rows, kept]
        self._mask, window.start, window.end = mask, place.start, place.stop


def _moved(part: torch.Tensor, size: tuple[int, int], num_rows: int, kept: slice, place: slice) -> torch.Tensor:
    """A buffer of another size with the rows in another place."""
    moved = part.new_zeros(size[0], part.shape[1], size[1], part.shape[3])
    moved[:num_rows, :, place] = part[:num_rows, :, kept]
    return moved
