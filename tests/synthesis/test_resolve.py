"""Contradictions, repetitions and fallbacks."""

from dataclasses import replace

import pytest

from app.synthesis.resolve import ELSEWHERE, SILENT, resolve
from app.synthesis.rows import ExtractedFact
from app.synthesis.settings import SynthesisSettings

FEE = ExtractedFact("Harbour Account", "annual fee", "12 euros", "list", "c1", "d1", "a.md")
TERM = ExtractedFact("overdraft", "", "a debt on an account", "definition", "c2", "d1", "a.md")


def resolved(*candidates, chunk_ids=("c1", "c2"), **settings):
    return resolve(candidates, chunk_ids=chunk_ids, settings=SynthesisSettings(**settings))


def test_a_repetition_counts_once():
    again = replace(FEE, chunk_id="c2", subject="harbour account")
    resolution = resolved(FEE, again)
    assert len(resolution.facts) == 1
    assert resolution.rejects == []


def test_a_contradiction_is_rejected_on_both_sides():
    other = replace(FEE, value="15 euros", chunk_id="c2", source="b.md")
    resolution = resolved(FEE, other)
    assert resolution.facts == []
    assert [reject.chunk_id for reject in resolution.rejects] == ["c1", "c2"]
    assert resolution.rejects[0].reason == (
        "conflict: annual fee of Harbour Account is '12 euros' here and '15 euros' in b.md"
    )
    assert resolution.num_conflicts == 2


@pytest.mark.parametrize(
    ("rule", "same_document", "num_kept"),
    [
        ("documents_without_facts", True, 0),
        ("documents_without_facts", False, 1),
        ("chunks_without_facts", True, 1),
    ],
)
def test_fallbacks_count_only_where_allowed(rule, same_document, num_kept):
    term = TERM if same_document else replace(TERM, document_id="d2")
    resolution = resolved(FEE, term, fallback=rule)
    assert sum(fact.is_fallback for fact in resolution.facts) == num_kept
    assert [reject.reason for reject in resolution.rejects] == ([] if num_kept else [ELSEWHERE])


def test_the_second_definition_of_a_term_is_rejected():
    other = replace(TERM, value="a loan", chunk_id="c1")
    resolution = resolved(TERM, other)
    assert len(resolution.facts) == 1
    assert [reject.reason for reject in resolution.rejects] == ["another chunk answers 'overdraft' already"]


def test_a_silent_chunk_is_named():
    resolution = resolved(FEE, chunk_ids=("c1", "c9"))
    assert [(reject.chunk_id, reject.reason) for reject in resolution.rejects] == [("c9", SILENT)]


def test_the_order_of_candidates_does_not_matter():
    facts = [FEE, TERM, replace(FEE, attribute="code"), replace(FEE, value="9", chunk_id="c2")]
    assert resolved(*facts) == resolved(*reversed(facts))
