"""Blocks of Markdown text: paragraphs, lists, pipe tables and sentences. Pure; shared by chunking and reading.

Guarantees: nothing is lost but the white space between blocks and between sentences. Not guaranteed: that a sentence
ends where a reader would end it; abbreviations are known by a short list.
"""

import re

TABLE_LINE = re.compile(r"^\s*\|.*\|\s*$")
TABLE_RULE = re.compile(r"^\s*\|(\s*:?-+:?\s*\|)+\s*$")
CELL_BORDER = re.compile(r"(?<!\\)\|")
LIST_MARK = re.compile(r"^\s*([-*•]|\d{1,3}[.)])\s+")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
ABBREVIATION = re.compile(r"\b(?:[A-Z]|e\.g|i\.e|cf|vs|Dr|Mr|Mrs|Ms|St|No|Art|Fig|Inc|Ltd|Co)\.$")


def split_blocks(text: str) -> list[str]:
    """Blocks between blank lines, none of them empty."""
    return [block for block in re.split(r"\n[ \t]*\n", text.strip()) if block.strip()]


def is_table(block: str) -> bool:
    """Whether a block is a pipe table: every line a row, the second one the rule below the header."""
    lines = block.split("\n")
    return len(lines) >= 2 and TABLE_RULE.match(lines[1]) is not None and all(map(TABLE_LINE.match, lines))


def table_cells(line: str) -> list[str]:
    """The cells of one row of a pipe table."""
    return [cell.strip().replace("\\|", "|") for cell in CELL_BORDER.split(line.strip())[1:-1]]


def split_sentences(text: str) -> list[str]:
    """A paragraph's sentences in order."""
    sentences: list[str] = []
    start = 0
    for end in SENTENCE_END.finditer(text):
        sentence = text[start : end.end()].strip()
        if not ABBREVIATION.search(sentence):
            sentences.append(sentence)
            start = end.end()
    return [sentence for sentence in [*sentences, text[start:].strip()] if sentence]
