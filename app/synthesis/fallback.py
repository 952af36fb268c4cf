"""Questions about text that states no attributes: definitions, section openings and gaps in sentences.

The last resort for arbitrary documents. Guarantees: pure; every answer is a verbatim part of the chunk.
"""

import re
from collections.abc import Iterator

from app.synthesis.names import GENERIC_HEADINGS
from app.synthesis.sentences import split_sentences

DEFINITION = re.compile(
    r"^(?:The\s|An?\s)?(?P<e>[A-Z]?[\w-]+(?:\s[\w-]+){0,4}?)\s(?:is|are|means|refers\sto)\s"
    r"(?P<v>(?:an?|the|any)\s.+?)[.!]?$"
)
_PRONOUNS = "it this that there these those he she they we you i what which who here one"
PRONOUNS = frozenset(_PRONOUNS.split())
GAP = re.compile(
    r"(?<=[a-z,]\s)(?:\d[\d.,]*(?:\s(?:percent|[a-z]+s)\b)?|[A-Z][a-z]{2,}(?:\s[A-Z][a-z]{2,}){1,2}(?!\s[A-Z]))(?=[\s.,;]|$)"
)
MIN_SENTENCE_WORDS = 5


def fallback_facts(
    paragraphs: list[str], *, heading: str | None, max_sentence_words: int
) -> Iterator[tuple[str, str, str]]:
    """(what is asked about, method, answer), definitions first, then the section, then gaps."""
    sentences = [
        sentence
        for paragraph in paragraphs
        for sentence in split_sentences(paragraph)
        if MIN_SENTENCE_WORDS <= len(sentence.split()) <= max_sentence_words and " - " not in sentence
    ]
    yield from _definitions(sentences)
    if heading and sentences and _says_something(heading):
        yield heading, "section", sentences[0]
    yield from _gaps(sentences)


def _says_something(heading: str) -> bool:
    return heading.casefold() not in GENERIC_HEADINGS and any(character.isalpha() for character in heading)


def _definitions(sentences: list[str]) -> Iterator[tuple[str, str, str]]:
    for sentence in sentences:
        match = DEFINITION.match(sentence)
        if match and not PRONOUNS & set(match["e"].casefold().split()):
            yield match["e"], "definition", match["v"]


def _gaps(sentences: list[str]) -> Iterator[tuple[str, str, str]]:
    for sentence in sentences:
        match = GAP.search(sentence)
        if match:
            yield f"{sentence[: match.start()]}____{sentence[match.end() :]}", "cloze", match[0].rstrip(".,")
