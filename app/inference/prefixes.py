"""Keys and values of prompts' beginnings, so that what many prompts share is worked through once.

A prompt is cut into blocks of some tokens; a block is known by a digest of everything up to its end, so that two
prompts share exactly what they begin with. The blocks that were used longest ago go first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch

BLOCK_TOKENS = 16


class PrefixCache:
    """Blocks of keys and values, each of (layers, 2, heads, tokens, head size).

    Args:
        max_tokens: how many tokens are kept; 0: none.
    """

    def __init__(self, max_tokens: int) -> None:
        self._limit = max_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, tokens: Sequence[int], *, owner: str) -> list[torch.Tensor]:
        """Blocks of the longest beginning that is known, never the whole prompt.

        Args:
            owner: what made the keys and values (an adapter's name); nothing is shared between owners.
        """
        found: list[bytes] = []
        for key in self._keys(tokens[:-1], owner):
            if key not in self._blocks:
                break
            found.append(key)
        for key in reversed(found):  # a beginning outlives what follows it
            self._blocks.move_to_end(key)
        return [self._blocks[key] for key in found]

    def keep(self, tokens: Sequence[int], whole: torch.Tensor, *, owner: str) -> None:
        """Keep a prompt's keys and values, (layers, 2, heads, tokens, head size), block by block."""
        keys = self._keys(tokens, owner)
        for place, key in enumerate(keys):
            if key not in self._blocks:
                start = place * BLOCK_TOKENS
                self._blocks[key] = whole[..., start : start + BLOCK_TOKENS, :].clone()
        for key in reversed(keys):
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._limit:
            self._blocks.popitem(last=False)

    def knows(self, tokens: Sequence[int], *, owner: str) -> bool:
        """Whether all of a prompt's whole blocks are kept, or none would be."""
        keys = self._keys(tokens, owner)
        return not keys or keys[-1] in self._blocks

    def _keys(self, tokens: Sequence[int], owner: str) -> list[bytes]:
        if not self._limit:
            return []
        digest, keys = hashlib.sha256(owner.encode()), []
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            digest.update(array("q", tokens[start : start + BLOCK_TOKENS]).tobytes())
            keys.append(digest.digest())
        return keys
