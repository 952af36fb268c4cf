"""Answers that fit a JSON schema: at every token, those alone are allowed with which it can still be met.

llguidance does the work (https://github.com/guidance-ai/llguidance): it reads the schema and knows after each token
which others may follow.

Guarantees: an answer that ends by itself is JSON that fits the schema; one that is cut off by its bound is not whole.
Not guaranteed: every word of JSON schema (what llguidance does not know is refused by name); sense.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from app.inference.sampling import SamplingInvalid


class SchemaUnusable(SamplingInvalid):
    """A JSON schema that cannot be used: the message says what is wrong with it."""


class Shape:
    """One answer's schema, and how far it has been met."""

    def __init__(self, matcher: Any, *, num_tokens: int) -> None:
        self._matcher, self._num_tokens = matcher, num_tokens

    def allowed(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which tokens may come next, (vocabulary)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        found = np.unpackbits(bits, bitorder="little")[: self._num_tokens].astype(bool)
        return np.pad(found, (0, self._num_tokens - len(found)))

    def accept(self, token: int) -> None:
        """A token that was allowed has been drawn."""
        self._matcher.consume_token(token)


class Shapes:
    """Shapes of answers in a model's tokens.

    Args:
        tokenizer: transformers' tokenizer of the model.
        num_tokens: width of the model's logits.
        end_tokens: any of these ends an answer.
    """

    def __init__(self, tokenizer: Any, *, num_tokens: int, end_tokens: Collection[int]) -> None:
        self._source, self._num_tokens, self._ends = tokenizer, num_tokens, sorted(end_tokens)

    @cached_property
    def _tokens(self) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self._source, n_vocab=self._num_tokens, eos_token=self._ends)

    def of(self, schema: Mapping[str, Any]) -> Shape:
        """The shape of one answer; the first one of a model takes a second.

        Raises:
            SchemaUnusable: the schema is none, or asks for what cannot be met token by token.
        """
        from llguidance import LLMatcher

        whole = json.dumps(dict(schema))
        try:  # no white space is allowed: a model that is not sure goes on with it until its bound
            grammar = LLMatcher.grammar_from_json_schema(whole, defaults={"whitespace_flexible": False})
            matcher = LLMatcher(self._tokens, grammar)
        except ValueError as error:
            raise SchemaUnusable("schema", " ".join(str(error).split())[:300]) from error
        if matcher.is_error():
            raise SchemaUnusable("schema", " ".join(matcher.get_error().split())[:300])
        return Shape(matcher, num_tokens=self._num_tokens)
