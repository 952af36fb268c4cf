"""Rows to examples in whichever format the model speaks; what a template cannot render is a reject with its reason.

Guarantees: a model of Signalbox' own format gets the examples of :mod:`app.training.data`, byte for byte; for another
one an example's prompt is, token for token, what the engine gives the model at inference. Nothing is left out in
silence: ``rejects`` names each answer that was. Transformers is imported for a model that brought a template alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from app.inference.chat_format import CannotRender, ChatFormat, OwnFormat
from app.training.data import Example, Row, answers_in, blocks_of, encode_rows, encode_texts, id_of, learned_spans
from app.training.pairs import encode_pairs

Reject = dict[str, Any]


class Encoder:
    """Encodes rows for one model.

    Args:
        chat: the model's format.
        context_tokens: longest sequence that the model can take; None where nothing is known, or it is our own.
    """

    def __init__(self, chat: ChatFormat, *, context_tokens: int | None = None) -> None:
        self.chat, self.context_tokens = chat, context_tokens
        self.rejects: list[Reject] = []
        """Answers that the template cannot render: rows of ``prepare.REJECTS``."""

    def rows(self, rows: Sequence[Row], *, pool: int = 0) -> list[Example]:
        """Examples of rows with `question` and `answer`, and a `history` maybe, one for each answer in them."""
        if isinstance(self.chat, OwnFormat):
            return encode_rows(rows, self.chat.tokenizer, pool=pool)
        return [example for row in rows for example in self._answers(row, pool)]

    def pairs(self, rows: Sequence[Row], *, pool: int = 0) -> list[Example]:
        """Both sides of rows with `question`, `answer` and `rejected`, the better one first."""
        if isinstance(self.chat, OwnFormat):
            return encode_pairs(rows, self.chat.tokenizer, pool=pool)
        sides = [[self._last(row, row[name], pool) for name in ("answer", "rejected")] for row in rows]
        return [side for pair in sides if None not in pair for side in pair if side]

    def texts(self, texts: Sequence[str], *, block_tokens: int) -> list[Example]:
        """The texts end to end, cut into blocks; every token is learned."""
        if isinstance(self.chat, OwnFormat):
            return encode_texts(texts, self.chat.tokenizer, block_tokens=block_tokens)
        return blocks_of(self.chat.texts(texts), block_tokens=block_tokens)

    def tokens(self, rows: Sequence[Row], *, pool: int = 0) -> list[Example]:
        """Examples of rows of tokens; ValueError when one is not in the vocabulary."""
        size = self.chat.vocabulary_size
        return [example for row in rows for example in learned_spans(row, vocabulary_size=size, pool=pool)]

    def _answers(self, row: Row, pool: int) -> Iterator[Example]:
        for turns, answer, unmask in answers_in(row):
            if example := self._answer(row, turns, answer, pool):
                yield replace(example, num_prompt=0) if unmask else example

    def _last(self, row: Row, answer: str, pool: int) -> Example | None:
        turns, *_ = answers_in({**row, "unmask": False})[-1]
        return self._answer(row, turns, answer, pool)

    def _answer(self, row: Row, turns: Sequence[Row], answer: str, pool: int) -> Example | None:
        try:
            tokens, start = self.chat.turn([*turns, {"role": "assistant", "content": answer}])
        except CannotRender as error:
            self.rejects.append({"dataset": None, "row_id": id_of(row), "num_tokens": None, "reason": str(error)})
            return None
        return Example(tokens, start, pool, id_of(row))
