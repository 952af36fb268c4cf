"""How close converted text and structure are to reviewed conversions of the same files.

Measures, each from 0 to 1, against a Markdown ground truth: ``text`` is 1 - edit distance of words over the longer
text's words (the first ``MAX_WORDS``), ``headings`` the share of its headings that are headings here, ``cells`` F1 of
table cells as a multiset. Markup is taken off both sides first, and so are the dots that lead to a page number.
"""

import gzip
import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.core.digests import digest_file
from app.documents.errors import CannotConvert
from app.documents.read import SourceFile, format_of
from app.documents.sandbox import Sandbox
from app.documents.sections import Converted, title_from_name
from app.documents.settings import LimitSettings
from app.inference.blocks import TABLE_LINE, TABLE_RULE, table_cells

MAX_WORDS = 4_000
HEADING = re.compile(r"^#{1,6}\s+(.*)$")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LEADER = re.compile(r"(?:\s*\.){4,}|(?<=\s)\.(?=\s)|^\s*\.(?=\s)")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
MARKUP = re.compile(r"[*_`~\\]|^\s*(?:[-+*•]|\d+[.)])\s+|^#+\s+|^>\s?", re.MULTILINE)


def fidelity(truth: Path) -> dict[str, Any]:
    """Mean figures by format, PDFs apart, over the files that have a ground truth and a format that is read."""
    found: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    refused: dict[str, str] = {}
    with Sandbox(limits=LimitSettings(timeout_s=120)) as sandbox:
        for path, wanted in _pairs(truth):
            kind = str(format_of(path.name))
            file = SourceFile(path, path.name, kind, digest_file(path), path.stat().st_size)
            try:
                converted = sandbox.convert(file)
                said = converted.title != title_from_name(path.name)
                found[kind].append(compare(converted, wanted.read_text(), said=said))
            except CannotConvert as error:
                refused[path.name] = str(error)
    rest = [each for kind, every in found.items() if kind != "pdf" for each in every]
    by_kind = {kind: _means(every) for kind, every in sorted(found.items())}
    return {"all_but_pdf": _means(rest), **by_kind, "refused": refused}


def compare(converted: Converted, truth: str, *, said: bool = True) -> dict[str, float | None]:
    """The measures of a document, ``said`` where it names its title; None where the truth has no headings or tables."""
    text, headings, cells = parts_of_markdown(truth)
    own = "\n\n".join(_rendered(converted, said=said))
    own_text, own_headings, own_cells = parts_of_markdown(own)
    recalled = sum((Counter(headings) & Counter([*own_headings, *_words_of(converted.title)])).values())
    shared = sum((Counter(cells) & Counter(own_cells)).values())
    total = len(cells) + len(own_cells)
    return {
        "text": similarity(text, own_text),
        "headings": recalled / len(headings) if headings else None,
        "cells": 2 * shared / total if total else None,
    }


def parts_of_markdown(text: str) -> tuple[list[str], list[str], list[str]]:
    """Words, headings and table cells of a Markdown text, without markup."""
    headings, cells, words = [], [], []
    for line in COMMENT.sub("", html.unescape(text)).split("\n"):
        if TABLE_RULE.match(line):
            continue
        if TABLE_LINE.match(line):
            own = [plain(cell) for cell in table_cells(line)]
            cells += [cell for cell in own if cell]
            words += " ".join(own).split()
            continue
        if match := HEADING.match(line):
            headings += [plain(match.group(1))] if plain(match.group(1)) else []
        words += plain(line).split()
    return words, headings, cells


def plain(text: str) -> str:
    """Text without markup, on one line."""
    return " ".join(MARKUP.sub("", LINK.sub(r"\1", LEADER.sub(" ", text))).split())


def similarity(one: list[str], other: list[str]) -> float:
    """1 - Levenshtein distance of two word lists over the longer one's length."""
    import numpy as np

    one, other = one[:MAX_WORDS], other[:MAX_WORDS]
    if not one or not other:
        return float(one == other)
    codes = {word: number for number, word in enumerate({*one, *other})}
    target = np.array([codes[word] for word in other])
    steps = np.arange(len(other) + 1)
    row = steps.copy()
    for number, word in enumerate(one, start=1):
        best = np.minimum(row[:-1] + (target != codes[word]), row[1:] + 1)
        row = np.minimum.accumulate(np.concatenate(([number], best)) - steps) + steps
    return 1.0 - float(row[-1]) / max(len(one), len(other))


def _rendered(converted: Converted, *, said: bool) -> Iterator[str]:
    """The document as Markdown, with a heading where the path changes; not its title where the file's name gave it."""
    before: tuple[str, ...] = () if said else (converted.title,)
    for section in converted.sections:
        path = section.heading_path
        same = next(
            (n for n, (a, b) in enumerate(zip(path, before, strict=False)) if a != b), min(len(path), len(before))
        )
        yield from (f"# {name}" for name in path[same:])
        yield section.text
        before = path


def _words_of(title: str) -> list[str]:
    return [plain(title)]


def _pairs(truth: Path) -> Iterator[tuple[Path, Path]]:
    with gzip.open(truth / "index.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            wanted = next((name for name in row["groundtruth"] if name.endswith(".md")), None)
            if wanted and format_of(row["source"]):
                yield truth / row["source"], truth / wanted


def _means(every: list[dict[str, float | None]]) -> dict[str, float | int | None]:
    figures: dict[str, float | int | None] = {"num": len(every)}
    for name in ("text", "headings", "cells"):
        values = [value for each in every if (value := each[name]) is not None]
        figures[name] = sum(values) / len(values) if values else None
    return figures
