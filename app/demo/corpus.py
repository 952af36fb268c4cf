"""The sample corpus: the fictional Alderhaven Cooperative's handbook, written from the fact table.

Guarantees: the same revision gives the same files with the same bytes (one reportlab, python-docx, python-pptx and
openpyxl version assumed); every fact of the revision stands in at least one document; no document states a fact that
the table lacks. One file is broken on purpose, so that a run has something to reject.
"""

from collections.abc import Iterator
from pathlib import Path

from app.demo.facts import TOPICS_ADDED, TOPICS_AT_FIRST, Fact, Revision, Topic, topics
from app.demo.pages import Block, Bullets, Heading, Page, Paragraph, Table
from app.demo.prose import INTRODUCTIONS, capitalised, list_item, paragraph
from app.demo.render import render

PAGE_FORMATS = ("md", "html", "docx", "pdf", "pptx", "txt")
TABLE_FORMATS = {
    "accounts": "xlsx", "savings": "csv", "loans": "xlsx", "cards": "csv", "insurance": "pdf", "branches": "html",
    "committees": "docx", "policies": "xlsx", "solar": "xlsx", "ebikes": "pdf",
}  # fmt: skip
POSITIONS = {
    entity: number for number, entity in enumerate(e for t in (*TOPICS_AT_FIRST, *TOPICS_ADDED) for e in t.rows)
}

BROKEN_PATH = "archive/terms-of-1998.docx"
BROKEN_BYTES = b"PK\x03\x04" + b"This file was damaged in the archive. " * 20

GUIDE = Page(
    "how-to-use-this-handbook.md",
    "How to use this handbook",
    (
        Paragraph(
            "The handbook is the common memory of everybody who works at the counter. "
            "Look a product up under its own name before you answer a member."
        ),
        Heading("When something is missing"),
        Paragraph(
            "Tell the editors what you looked for and did not find. "
            "They answer within the week and add what was missing to the next revision."
        ),
    ),
)


def write_corpus(folder: Path, *, revision: Revision = 1) -> list[Path]:
    """Write the revision's documents into `folder` and remove those that only the other revision has.

    Files that are not the corpus's own are left alone. Returns the files written, sorted.
    """
    documents = corpus_files(revision)
    for stale in {page.path for other in (1, 2) for page in pages(other)} - documents.keys():
        (folder / stale).unlink(missing_ok=True)
    for path, data in documents.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return sorted(folder / path for path in documents)


def corpus_files(revision: Revision) -> dict[str, bytes]:
    """Every file of a revision by its path, the broken one included."""
    return {**{page.path: render(page) for page in pages(revision)}, BROKEN_PATH: BROKEN_BYTES}


def pages(revision: Revision) -> list[Page]:
    """The revision's documents before they have a format."""
    return [GUIDE, *(page for topic in topics(revision) for page in _topic_pages(topic))]


def _topic_pages(topic: Topic) -> Iterator[Page]:
    by_entity: dict[str, list[Fact]] = {}
    for fact in topic.facts():
        by_entity.setdefault(fact.entity, []).append(fact)
    for entity, facts in by_entity.items():
        yield _entity_page(topic, entity, facts[: _num_on_page(topic)])
    if topic.name in TABLE_FORMATS:
        yield _table_page(topic)


def _num_on_page(topic: Topic) -> int:
    """PDF tables repeat what the pages say: tables in PDFs are the hardest thing to read back."""
    return len(topic.attributes) if TABLE_FORMATS.get(topic.name, "pdf") == "pdf" else len(topic.attributes) - 2


def _entity_page(topic: Topic, entity: str, facts: list[Fact]) -> Page:
    position = POSITIONS[entity]
    suffix = PAGE_FORMATS[position % len(PAGE_FORMATS)]
    layouts = (_listed, _told) if suffix == "pdf" else (_listed, _told, _tabled)
    blocks = layouts[position // len(PAGE_FORMATS) % len(layouts)](facts)
    introduction = Paragraph(INTRODUCTIONS[topic.name])
    return Page(f"{topic.name}/{_slug(entity)}.{suffix}", entity, (introduction, *blocks))


def _listed(facts: list[Fact]) -> tuple[Block, ...]:
    half = len(facts) // 2
    return (
        Heading("At a glance"),
        Bullets(tuple(map(list_item, facts[:half]))),
        Heading("Good to know"),
        Paragraph(paragraph(facts[half:])),
    )


def _told(facts: list[Fact]) -> tuple[Block, ...]:
    half = len(facts) // 2
    return (
        Heading("What members should know"),
        Paragraph(paragraph(facts[:half])),
        Heading("Further terms"),
        Paragraph(paragraph(facts[half:])),
    )


def _tabled(facts: list[Fact]) -> tuple[Block, ...]:
    half = len(facts) // 2
    table = Table(("Feature", "Value"), tuple((capitalised(fact.attribute), fact.value) for fact in facts[half:]))
    return Paragraph(paragraph(facts[:half])), Heading("Details"), table


def _table_page(topic: Topic) -> Page:
    """All entities side by side, for the attributes from the fourth on: one or more of them stand here alone."""
    table = Table(
        (topic.entity_column, *map(capitalised, topic.attributes[3:])),
        tuple((entity, *values[3:]) for entity, values in topic.rows.items()),
    )
    text = Paragraph("The table puts everything on this subject side by side. Each row also has a page of its own.")
    return Page(f"{topic.name}/{topic.name}-compared.{TABLE_FORMATS[topic.name]}", topic.title, (text, table))


def _slug(entity: str) -> str:
    return entity.lower().replace(" ", "-")
