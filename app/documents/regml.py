"""Regulations in RegML, the XML of the US Consumer Financial Protection Bureau's eRegulations, to sections.

How: subparts, sections, appendices, interpretations and analyses that have a title open a section at their depth; each
paragraph is a block that begins with its marker, such as ``(b)(1)``; tables stay tables, footnotes stand in square
brackets where they are referred to. Source: the element names of github.com/cfpb/regulations-schema.

Guarantees: every word of the regulation's text comes out once, but for its tables of contents. Not guaranteed: other
XML of regulations (USLM, Akoma Ntoso), which is refused by name.
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from app.documents.facts import iso_date
from app.documents.sections import Converted, Facts, Outline, markdown_table, one_line

HEADINGS = ("title", "subject", "appendixTitle")
SECTIONS = (
    "subpart",
    "section",
    "appendix",
    "appendixSection",
    "interpretations",
    "interpSection",
    "interpParagraph",
    "analysis",
    "analysisSection",
)
LEFT_OUT = ("tableOfContents", "fdsys", "preamble", "changeset", "url")
INLINE = ("content", "ref", "def", "em", "footnote", "text", "altText", "variable", "callout", "line", "key", "dash")
FORMULA = ("graphic",)


def is_regml(root: Element) -> bool:
    """Whether an XML document is a regulation in RegML."""
    return _name(root) == "regulation" and root.tag.startswith("{eregs}")


def read_regml(root: Element, *, fallback_title: str) -> Converted:
    """Sections of a regulation, with its dates and its address in the Federal Register."""
    part = next((element.get("label", "") for element in root if _name(element) == "part"), "")
    title = one_line(_first(root, "fdsys", "title"))
    outline = Outline(title=f"Part {part}: {title}" if part and title else title)
    for element in root:
        _read(element, outline, level=1)
    facts = Facts(
        language="en",
        created=iso_date(_first(root, "fdsys", "originalDate")),
        modified=iso_date(_first(root, "preamble", "effectiveDate")),
        uri=_first(root, "preamble", "federalRegisterURL") or None,
    )
    return outline.finish(fallback_title=fallback_title).with_facts(facts)


def _read(element: Element, outline: Outline, *, level: int) -> None:
    name = _name(element)
    if name in LEFT_OUT:
        return
    if name in ("paragraph", "analysisParagraph"):
        _paragraph(element, outline, level=level)
    elif name == "table":
        outline.block(markdown_table(_rows(element)))
    elif name in INLINE or name in FORMULA or name in HEADINGS:
        outline.block(_text(element))
    else:
        level = _open(element, outline, level=level) if name in SECTIONS else level
        titled = name in SECTIONS
        for child in element:
            if not (titled and _name(child) in HEADINGS):
                _read(child, outline, level=level) if _name(child) != "content" else _content(child, outline, level)


def _open(element: Element, outline: Outline, *, level: int) -> int:
    """Open a section where the element has a title; the level of what is below it."""
    title = next((_text(child) for child in element if _name(child) in HEADINGS), "")
    if not title:
        return level
    outline.heading(title, level=level)
    return level + 1


def _paragraph(element: Element, outline: Outline, *, level: int) -> None:
    """A paragraph and those below it; its marker and title stand in front of its text."""
    lead = [element.get("marker", ""), *(_text(child) for child in element if _name(child) in HEADINGS)]
    content = [child for child in element if _name(child) == "content"]
    tables = [table for child in content for table in child.iter() if _name(table) == "table"]
    lead += [_text(child) for child in content]
    if _name(element) == "analysisParagraph" and not content:
        outline.block(_text(element))
        return
    outline.block(one_line(" ".join(part for part in lead if part)))
    for table in tables:
        outline.block(markdown_table(_rows(table)))
    for child in element:
        if _name(child) not in (*HEADINGS, "content"):
            _read(child, outline, level=level)


def _content(element: Element, outline: Outline, level: int) -> None:
    """What a content element holds: text, or more structure."""
    if any(_name(child) not in INLINE and _name(child) not in FORMULA for child in element):
        for child in element:
            _read(child, outline, level=level)
    else:
        outline.block(_text(element))


def _text(element: Element) -> str:
    return one_line("".join(_words(element)))


def _words(element: Element) -> Iterator[str]:
    """The text below an element, in order; tables come apart from it."""
    footnote = _name(element) == "footnote"
    yield " [" if footnote else ""
    yield element.text or ""
    for child in element:
        if _name(child) not in ("table", *LEFT_OUT):
            yield from _words(child)
        yield child.tail or ""
    yield "]" if footnote else ""


def _rows(table: Element) -> list[list[str]]:
    rows = []
    for row in table.iter():
        if _name(row) in ("row", "columnHeaderRow"):
            rows.append([_text(cell) for cell in row if _name(cell) in ("cell", "column")])
    return rows


def _first(root: Element, outer: str, inner: str) -> str:
    found = (leaf for branch in root if _name(branch) == outer for leaf in branch if _name(leaf) == inner)
    return one_line(next((leaf.text or "" for leaf in found), ""))


def _name(element: Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]
