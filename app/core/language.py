"""Which language a text is in, by py3langid's model of 97 languages, which the package brings.

Guarantees: the same text gives the same answer; a text that is too short or too odd gives ``und``. Not guaranteed: the
right answer for a few words, or for text in two languages.
"""

from functools import cache
from typing import Any

UNKNOWN = "und"
SAMPLE_CHARS = 4_000
MIN_LETTERS = 40
LEAST_CHANCE = 0.9


def language_of(text: str, *, min_letters: int = MIN_LETTERS) -> str:
    """ISO 639-1 code of a text's language; ``und`` where it cannot be said."""
    sample = text[:SAMPLE_CHARS]
    if sum(map(str.isalpha, sample)) < min_letters:
        return UNKNOWN
    language, chance = load_identifier().classify(sample)
    return str(language) if chance >= LEAST_CHANCE else UNKNOWN


@cache
def load_identifier() -> Any:
    """The model, loaded once in a process (half a second)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
