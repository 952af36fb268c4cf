"""Chunk to facts, by tables, lists and sentences; and the whole sample corpus read back."""

import pytest

from app.demo.corpus import corpus_files, pages
from app.demo.facts import facts
from app.demo.render import markdown
from app.synthesis.extract import extract_facts
from app.synthesis.resolve import resolve
from app.synthesis.settings import SynthesisSettings

SETTINGS = SynthesisSettings()


def chunk(text, *, path=("Harbour Account",), title="Handbook", source="a.md", number=0):
    identity = {"chunk_id": f"{source}#{number}", "document_id": source, "source": source}
    return {**identity, "title": title, "heading_path": list(path), "text": text}


def triples(text, **options):
    found = extract_facts(chunk(text, **options), SETTINGS)
    return [(fact.subject, fact.attribute, fact.value) for fact in found if not fact.is_fallback]


FEE = ("Harbour Account", "annual fee", "12 euros")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("- Annual fee: 12 euros", ("Harbour Account",)),
        ("* **Annual fee:** 12 euros", ("Harbour Account", "At a glance")),
        ("1. Annual fee: 12 euros", ("2.1 Harbour Account",)),
        ("Annual fee: 12 euros", ("Harbour Account",)),
        ("- Annual fee of the Harbour Account: 12 euros", ("Prices",)),
        ("| Feature | Value |\n|---|---|\n| Annual fee | 12 euros |", ("Harbour Account", "Details")),
        ("| Annual fee | 12 euros |\n|---|---|", ("Harbour Account",)),
        ("| Account | Annual fee |\n|:--|--:|\n| Harbour Account | 12 euros |", ("Accounts",)),
        ("| Account | Annual fee (euros) |\n|---|---|\n| Harbour Account | 12 |", ()),
        ("It is old. The annual fee of the Harbour\nAccount is 12 euros.", ("Accounts",)),
    ],
)
def test_a_fact_is_read_wherever_it_stands(text, path):
    assert triples(text, path=path) == [FEE]


@pytest.mark.parametrize(
    "text",
    [
        "| Account | Annual fee |\n|---|---|\n| Harbour Account | - |",
        "| Account | Annual fee |\n|---|---|\n| 2024 | 12 euros |",
        "- Note: because the board of the cooperative says so",
        f"- Annual fee: {'very ' * 20}much",
        "- A really very long name of an attribute: 12",
        "",
    ],
)
def test_what_is_no_fact_is_left_alone(text):
    assert triples(text) == []


def test_a_sentence_cut_by_a_pdf_is_joined():
    text = "We keep what we promised to all members years ago. The annual fee of the Harbour\n\nAccount is 12 euros."
    assert triples(text) == [FEE]


def test_every_fact_names_its_chunk_and_method():
    found = extract_facts(chunk("- Annual fee: 12 euros", source="b.md", number=4), SETTINGS)
    assert [(fact.chunk_id, fact.source, fact.method) for fact in found] == [("b.md#4", "b.md", "list")]


def test_text_without_facts_falls_back():
    text = "A mortgage is a loan that is secured by a house. Members ask about it often."
    methods = {fact.method: (fact.subject, fact.value) for fact in extract_facts(chunk(text), SETTINGS)}
    assert methods["definition"] == ("mortgage", "a loan that is secured by a house")
    assert methods["section"] == ("Harbour Account", "A mortgage is a loan that is secured by a house.")
    assert not extract_facts(chunk(text), SynthesisSettings(fallback="never"))


def sections(text, title):
    """(heading path, text) of a Markdown page, cut at its headings."""
    path, lines = (title,), []
    for line in [*text.splitlines(), "## end"]:
        if line.startswith("#"):
            yield path, "\n".join(lines)
            path, lines = (title, line.lstrip("# ")) if line.startswith("##") else (title,), []
        else:
            lines.append(line)


def read_back(chunks):
    candidates = [fact for each in chunks for fact in extract_facts(each, SETTINGS)]
    resolution = resolve(candidates, chunk_ids=[each["chunk_id"] for each in chunks], settings=SETTINGS)
    return {(fact.subject, fact.attribute, fact.value) for fact in resolution.facts if not fact.is_fallback}


def assert_read_back(chunks, revision):
    found = read_back(chunks)
    stated = {(fact.entity, fact.attribute, fact.value) for fact in facts(revision)}
    assert len(found & stated) >= 0.95 * len(stated), sorted(stated - found)
    assert len(found - stated) < 0.02 * len(stated), sorted(found - stated)


@pytest.mark.parametrize("revision", [1, 2])
def test_the_corpus_is_read_back_from_its_markdown(revision):
    chunks = [
        chunk(text, path=path, title=page.title, source=page.path, number=number)
        for page in pages(revision)
        for number, (path, text) in enumerate(sections(markdown(page), page.title))
    ]
    assert_read_back(chunks, revision)


@pytest.mark.parametrize("revision", [1, 2])
def test_the_corpus_is_read_back_from_its_files(revision):
    chunks = list(converted(corpus_files(revision)))
    assert_read_back(chunks, revision)


def converted(files):
    """The chunks of files, as the documents stage cuts them, with words counted for tokens."""
    from app.documents.chunk import chunk_sections
    from app.documents.convert import DocumentReader
    from app.documents.errors import CannotConvert
    from app.documents.settings import ChunkSettings, LimitSettings

    reader = DocumentReader(limits=LimitSettings())
    for path, data in files.items():
        try:
            document = reader.convert(data, name=path, kind=path.rpartition(".")[2])
        except CannotConvert:
            continue
        cut = chunk_sections(document.sections, settings=ChunkSettings(), count_tokens=lambda text: len(text.split()))
        for each in cut:
            options = {"title": document.title, "source": path, "number": each.ordinal}
            yield chunk(each.text, path=each.heading_path, **options)


@pytest.mark.parametrize(
    "text",
    ["Aa " * 30_000, "aa " * 30_000, "The a of " * 10_000, "a" * 100_000, "| " + "( " * 30_000 + "| x |\n| a | 1 |",
     ("Aa of the Bb is " * 18 + ". ") * 300, "- " * 30_000, "A: " * 30_000],
)  # fmt: skip
def test_hostile_text_neither_hangs_nor_gives_long_facts(text):
    found = extract_facts(chunk(text), SETTINGS)
    assert all(len(fact.value.split()) <= SETTINGS.max_sentence_words for fact in found)
