"""Chunk to facts: (subject, attribute, value) from tables, "Attribute: value" lists and sentences.

Guarantees: pure and deterministic; every fact names its chunk and how it was read. Fallback facts are marked by their
method; `resolve` decides whether they count, since only it sees the other chunks of the document.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.synthesis.blocks import parse_blocks
from app.synthesis.fallback import fallback_facts
from app.synthesis.names import (
    KEY_HEADERS,
    VALUE_HEADERS,
    subject_of,
    tidy_attribute,
    tidy_subject,
    tidy_value,
    with_unit,
)
from app.synthesis.rows import ExtractedFact
from app.synthesis.sentences import sentence_facts
from app.synthesis.settings import SynthesisSettings

Triple = tuple[str, str, str]
Table = Sequence[Sequence[str]]


def extract_facts(chunk: Mapping[str, Any], settings: SynthesisSettings) -> list[ExtractedFact]:
    """The facts of a chunk, and after them its fallback facts.

    Args:
        chunk: chunk_id, document_id, source, title, heading_path and text, as the documents stage publishes them.
    """
    blocks = parse_blocks(chunk["text"])
    subject = subject_of(list(chunk["heading_path"]), chunk["title"] or "")
    found = [
        *(("table", triple) for table in blocks.tables for triple in _table_facts(table, subject)),
        *(("list", triple) for item in blocks.items for triple in _item_facts(item, subject)),
        *(("sentence", triple) for text in blocks.paragraphs for triple in sentence_facts(text, subject=subject)),
    ]
    facts = [fact for method, triple in found if (fact := _fact(chunk, method, triple, settings))]
    return [*dict.fromkeys(facts), *_fallbacks(chunk, [*blocks.paragraphs, *blocks.items], subject, settings)]


def _fact(chunk: Mapping[str, Any], method: str, triple: Triple, settings: SynthesisSettings) -> ExtractedFact | None:
    subject = tidy_subject(triple[0])
    attribute = tidy_attribute(triple[1], max_words=settings.max_attribute_words)
    value = tidy_value(triple[2], max_words=settings.max_answer_words)
    return _made(chunk, method, subject, attribute, value) if subject and attribute and value else None


def _fallbacks(
    chunk: Mapping[str, Any], paragraphs: list[str], subject: str | None, settings: SynthesisSettings
) -> Iterator[ExtractedFact]:
    if settings.fallback == "never":
        return
    found = fallback_facts(paragraphs, heading=subject, max_sentence_words=settings.max_sentence_words)
    for (text, method, answer), _ in zip(found, range(settings.max_fallbacks_per_chunk), strict=False):
        yield _made(chunk, method, text, "", answer)


def _made(chunk: Mapping[str, Any], method: str, subject: str, attribute: str, value: str) -> ExtractedFact:
    origin = {name: chunk[name] for name in ("chunk_id", "document_id", "source")}
    return ExtractedFact(subject=subject, attribute=attribute, value=value, method=method, **origin)


def _item_facts(item: str, subject: str | None) -> Iterator[Triple]:
    named = list(sentence_facts(item, subject=subject))
    if named:
        yield from named
        return
    key, colon, value = item.partition(": ")
    if colon and subject:
        yield subject, key, value


def _table_facts(table: Table, subject: str | None) -> Iterator[Triple]:
    if not table:
        return
    if _lists_attributes(table[0]):
        yield from _pairs(table[1:], subject)
    elif len(table[0]) == 2 and _looks_like_value(table[0][1]):
        yield from _pairs(table, subject)
    else:
        yield from _grid(table)


def _pairs(rows: Table, subject: str | None) -> Iterator[Triple]:
    if subject:
        yield from ((subject, *with_unit(row[0], row[1])) for row in rows if len(row) == 2)


def _grid(table: Table) -> Iterator[Triple]:
    header, *rows = table
    for row in rows:
        for name, cell in zip(header[1:], row[1:], strict=False):
            yield (row[0], *with_unit(name, cell))


def _lists_attributes(header: Sequence[str]) -> bool:
    if len(header) != 2:
        return False
    return header[0].casefold() in KEY_HEADERS and header[1].casefold() in VALUE_HEADERS


def _looks_like_value(cell: str) -> bool:
    return any(character.isdigit() for character in cell)
