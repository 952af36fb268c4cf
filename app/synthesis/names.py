"""What may stand as a subject, an attribute or a value, and how each is tidied.

Guarantees: pure; a phrase that fails its test comes back as None, never half tidied.
"""

import re
from collections.abc import Sequence

_GENERIC = (
    "at a glance|in short|in brief|key facts|key figures|facts|overview|details|conditions|terms|further terms|"
    "good to know|what to know|what members should know|summary|introduction|contact|prices|fees|features|notes|table|"
    "questions|figures|data|sheet|sheet1|contents|the details|the figures|more|general|information|how it works|"
    "frequently asked questions|faq|table of contents|references|conclusion|abstract|appendix"
)
_NO_ATTRIBUTES = (
    "rest|reason|result|way|case|fact|idea|part|one|kind|use|most|some|all|example|question|problem|answer|aim|"
    "purpose|point|thing|end|note|following|it|this|that|there|they|he|she|we|you|i|https|http|figure|table"
)
GENERIC_HEADINGS = frozenset(_GENERIC.split("|"))
"""Headings that name a part of a page and not what the page is about."""

KEY_HEADERS = frozenset({"attribute", "term", "feature", "detail", "item", "field", "property", "key", "topic", ""})
VALUE_HEADERS = frozenset({"value", "detail", "details", "description", "information", "content", "answer", ""})
"""Headers of a two-column table that lists attributes of one subject."""

NO_ATTRIBUTES = frozenset(_NO_ATTRIBUTES.split("|"))
NO_VALUES = frozenset({"", "-", "\u2013", "\u2014", "n/a", "na", "tbd", "?"})
NOT_A_VALUE = re.compile(r"^(?:not|to|that|because|when|if|why|how|what|where|very|so|also|only if)\b", re.IGNORECASE)
NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*[.)]?|[IVX]+\.|[A-Z][.)])\s+")
LEADING_ARTICLE = re.compile(r"^(?:a|an|the)\s+(?=\S)")
UNIT = re.compile(r"^(?P<name>.+?)\s*[(\[](?:in )?(?P<unit>[^()\[\]]{1,20})[)\]]$")
MAX_HEADER_CHARS = 100
NUMBER = re.compile(r"^[+-]?\d[\d.,]*$")


def subject_of(heading_path: Sequence[str], title: str) -> str | None:
    """The deepest heading that names something, else the title."""
    for heading in [*reversed(heading_path), title]:
        name = NUMBERING.sub("", heading.strip()).rstrip(":").strip()
        if name and name.casefold() not in GENERIC_HEADINGS and len(name.split()) <= 10:
            return name
    return None


def tidy_subject(text: str) -> str | None:
    """A name without its article; None where it is no name."""
    name = re.sub(r"^(?:the|our|The|Our)\s+", "", text.strip()).strip(" .,:;")
    return name if name and not NUMBER.match(name) and len(name) <= 80 else None


def tidy_attribute(text: str, *, max_words: int) -> str | None:
    """An attribute in lower case, acronyms kept; None where it is too long or says nothing."""
    words = [word if word[1:] != word[1:].lower() else word.lower() for word in text.strip(" .,:;").split()]
    name = LEADING_ARTICLE.sub("", " ".join(words))
    fits = 0 < len(words) <= max_words and name[:1].isalpha() and name not in NO_ATTRIBUTES
    return name if fits else None


def tidy_value(text: str, *, max_words: int) -> str | None:
    """A value without closing stop and leading article; None where it is empty, too long or no value."""
    value = LEADING_ARTICLE.sub("", " ".join(text.split()).rstrip(" .;,"))
    if value.casefold() in NO_VALUES or NOT_A_VALUE.match(value) or len(value.split()) > max_words:
        return None
    return value


def with_unit(header: str, cell: str) -> tuple[str, str]:
    """("Annual fee (euros)", "12") -> ("Annual fee", "12 euros"); a cell that has words keeps them."""
    match = UNIT.match(header) if len(header) <= MAX_HEADER_CHARS else None
    if not match:
        return header, cell
    return match["name"], f"{cell} {match['unit']}" if NUMBER.match(cell) else cell
