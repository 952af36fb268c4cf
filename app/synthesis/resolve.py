"""Candidates to facts: contradictions out, repetitions merged, fallbacks kept only where the settings allow.

Guarantees: pure; the same candidates in any order give the same facts, sorted; every candidate that gives no row, and
every chunk that gave no candidate, has a reject with its reason. A repetition is no reject: its chunk stands for the
fact, or another chunk that states the same does.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.synthesis.rows import ExtractedFact
from app.synthesis.settings import SynthesisSettings

ELSEWHERE = "states no attribute's value; its document does elsewhere, and synthesis.fallback leaves it at that"
SILENT = "nothing to ask about: no table, list or sentence of a known form"


@dataclass(frozen=True)
class Reject:
    """A chunk, or a fact of it, that gave no rows."""

    chunk_id: str
    reason: str


@dataclass(frozen=True)
class Resolution:
    """What goes on to be worded, and what does not."""

    facts: list[ExtractedFact]
    rejects: list[Reject]
    num_conflicts: int


def resolve(
    candidates: Iterable[ExtractedFact], *, chunk_ids: Iterable[str], settings: SynthesisSettings
) -> Resolution:
    """Decide which candidates count.

    Args:
        chunk_ids: every chunk that was read, so that a silent one can be named.
    """
    ordered = sorted(set(candidates), key=_order)
    stated = [fact for fact in ordered if not fact.is_fallback]
    kept, conflicts = _without_conflicts(stated)
    fallbacks = _allowed_fallbacks([fact for fact in ordered if fact.is_fallback], stated, settings)
    repeated = _later_fallbacks(fallbacks)
    facts = [*kept, *(fact for fact in fallbacks if fact not in repeated)]
    used = {fact.chunk_id for fact in [*stated, *fallbacks]}
    heard = {fact.chunk_id for fact in ordered}
    rejects = [
        *conflicts,
        *(
            Reject(fact.chunk_id, f"another chunk answers {fact.subject!r} already")
            for fact in sorted(repeated, key=_order)
        ),
        *(Reject(chunk_id, ELSEWHERE if chunk_id in heard else SILENT) for chunk_id in sorted(set(chunk_ids) - used)),
    ]
    return Resolution(facts, rejects, num_conflicts=len(conflicts))


def _order(fact: ExtractedFact) -> tuple[str, ...]:
    return (*fact.key, fact.value, fact.method, fact.source, fact.chunk_id)


def _without_conflicts(stated: Sequence[ExtractedFact]) -> tuple[list[ExtractedFact], list[Reject]]:
    by_key: dict[tuple[str, str], list[ExtractedFact]] = defaultdict(list)
    for fact in stated:
        by_key[fact.key].append(fact)
    kept: list[ExtractedFact] = []
    rejects: list[Reject] = []
    for group in by_key.values():
        if len({fact.value.casefold() for fact in group}) == 1:
            kept.append(group[0])
        else:
            rejects.extend(Reject(fact.chunk_id, _contradiction(fact, group)) for fact in group)
    return kept, rejects


def _contradiction(fact: ExtractedFact, group: Sequence[ExtractedFact]) -> str:
    others = sorted({f"{other.value!r} in {other.source}" for other in group if other.value != fact.value})
    return f"conflict: {fact.attribute} of {fact.subject} is {fact.value!r} here and {' and '.join(others)}"


def _allowed_fallbacks(
    fallbacks: Sequence[ExtractedFact], stated: Sequence[ExtractedFact], settings: SynthesisSettings
) -> list[ExtractedFact]:
    documents = {fact.document_id for fact in stated}
    chunks = {fact.chunk_id for fact in stated}
    if settings.fallback == "documents_without_facts":
        return [fact for fact in fallbacks if fact.document_id not in documents]
    return [fact for fact in fallbacks if fact.chunk_id not in chunks]


def _later_fallbacks(fallbacks: Sequence[ExtractedFact]) -> set[ExtractedFact]:
    first: dict[tuple[str, str], ExtractedFact] = {}
    for fact in fallbacks:
        first.setdefault((fact.method, fact.subject.casefold()), fact)
    return set(fallbacks) - set(first.values())
