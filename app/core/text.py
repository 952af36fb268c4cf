"""Texts as words and runs of words, and characters that no text should hold.

Guarantees: pure and deterministic; texts are compared by letters and digits alone, in Unicode's compatibility form,
without letter case. Not guaranteed: words of languages that write none apart.
"""

import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")
_BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


def broken_characters(text: str) -> list[str]:
    """Control characters, unpaired surrogates and U+FFFD, which decoders put in the place of what they cannot read.

    Source: the Unicode Standard, sections 5.22 and 23.
    """
    return _BROKEN.findall(text)


def words(text: str) -> list[str]:
    """Runs of letters and digits, case-folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def ngrams(tokens: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """Every run of ``n`` words; none when there are fewer."""
    return {tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)}
