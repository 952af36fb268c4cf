"""From tokens to text while an answer grows: pieces that can be said already, stop strings, what was only thought.

Guarantees: the pieces together are the whole text; no piece ends within a character, nor with what may turn out to be
the beginning of a stop string. A reasoning model's thoughts are no part of its answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from app.inference.sampling import Sampling, TokenLogprob

THOUGHT = "</think>"
"""Where a token of its own, it ends what a reasoning model says to itself before it answers."""
UNKNOWN = "\ufffd"
MOST_OPEN = 3
"""Tokens at an end that may be the beginning of a character: UTF-8 has four bytes at most."""
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Vocabulary:
    """A model's tokens as text and as bytes.

    Args:
        tokenizer: transformers' tokenizer of the model.
        end_tokens: any of these ends an answer.
    """

    def __init__(self, tokenizer: Any, *, end_tokens: Collection[int]) -> None:
        self.tokenizer, self.end_tokens = tokenizer, frozenset(end_tokens)
        added = tokenizer.get_added_vocab()
        self.thought = added.get(THOUGHT)
        self._added = {number: token for token, number in added.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._letters = _byte_letters() if "ByteLevel" in repr(getattr(backend, "decoder", "")) else {}

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def spell(self, token: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> TokenLogprob:
        """A token with its log-probability, and those of others at its place."""
        raw = self._raw(token)
        others = tuple(self.spell(each, value) for each, value in top)
        return TokenLogprob(raw.decode("utf-8", "replace"), raw, logprob, others)

    def _raw(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token]).encode()
        piece = str(self.tokenizer.convert_ids_to_tokens(token))
        if self._letters:
            return bytes(self._letters[letter] for letter in piece if letter in self._letters)
        byte = BYTE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


class Speller:
    """One answer's text, read when a piece is asked for; with stop strings at every token."""

    def __init__(self, vocabulary: Vocabulary, sampling: Sampling) -> None:
        self._vocabulary, self._stops = vocabulary, sampling.stop
        self._thinks = vocabulary.thought is not None
        self._ids: list[int] = []
        self._tokens: list[TokenLogprob] = []
        self._text, self._from, self._to = "", 0, 0
        self._said, self._told, self.stopped = "", 0, False

    def add(self, token: int, logprob: TokenLogprob | None) -> None:
        """The next token; ``stopped`` is true after one that completed a stop string."""
        if token == self._vocabulary.thought and not self._said:
            self._ids, self._tokens, self._text, self._from, self._to = [], [], "", 0, 0
            self._thinks = False
            return
        self._ids.append(token)
        if logprob is not None:
            self._tokens.append(logprob)
        if self._stops:
            self._read()

    def piece(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What can be said now and was not said before, with its tokens' log-probabilities."""
        if not self._stops:
            self._read()
        text = self._text[: len(self._text) - self._overlap(self._text)].strip()
        return self._say(text) if len(text) > len(self._said) else ("", ())

    def rest(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What is left to say when no token comes any more."""
        if not self.stopped:
            self._read()
        text = self._text.strip() if self.stopped else self._vocabulary.decode(self._ids).strip()
        if not text.startswith(self._said):
            text = max(self._text.strip(), self._said, key=len)
        return self._say(text)

    @property
    def whole(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What was said, the rest included."""
        return self._said, tuple(self._tokens[: self._told])

    def _say(self, text: str) -> tuple[str, tuple[TokenLogprob, ...]]:
        piece, tokens = text[len(self._said) :], tuple(self._tokens[self._told :])
        self._said, self._told = text, len(self._tokens)
        return piece, tokens

    def _read(self) -> None:
        """Take up the new tokens' text as far as they spell whole characters."""
        end = len(self._ids)
        if self._thinks or end == self._to:
            return
        before, now = self._decoded(self._to), self._decoded(end)
        while now.endswith(UNKNOWN) and end > max(self._to + 1, len(self._ids) - MOST_OPEN):
            end -= 1
            now = self._decoded(end)
        if len(now) <= len(before) or now.endswith(UNKNOWN):
            return
        known = len(self._text)
        self._text, self._from, self._to = self._text + now[len(before) :], self._to, end
        places = [self._text.find(stop, max(0, known - len(stop))) for stop in self._stops]
        found = [place for place in places if place >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)], True

    def _decoded(self, end: int) -> str:
        return self._vocabulary.decode(self._ids[self._from : end])

    def _overlap(self, text: str) -> int:
        """Length of the longest end that may be the beginning of a stop string."""
        if self.stopped:
            return 0
        ends = (size for stop in self._stops for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size]))
        return max(ends, default=0)
