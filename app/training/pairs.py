"""Preference pairs to examples: the better side, then the worse, one after another. Imports no torch.

Guarantees: both sides of a pair have the same prompt, to the token; what is learned of a side is its last answer.
"""

from collections.abc import Sequence
from itertools import accumulate

from tokenizers import Tokenizer

from app.training.data import Example, Row, answers_in, encode_rows


def encode_pairs(rows: Sequence[Row], tokenizer: Tokenizer, *, pool: int = 0) -> list[Example]:
    """Two examples for each row with `question`, `answer` and `rejected`, and the turns before it as its `history`."""
    sides = [
        _last_answers([{**row, "answer": row[name], "unmask": False} for row in rows], tokenizer, pool)
        for name in ("answer", "rejected")
    ]
    return [side for pair in zip(*sides, strict=True) for side in pair]


def _last_answers(rows: Sequence[Row], tokenizer: Tokenizer, pool: int) -> list[Example]:
    examples = encode_rows(rows, tokenizer, pool=pool)
    return [examples[end - 1] for end in accumulate(len(answers_in(row)) for row in rows)]
