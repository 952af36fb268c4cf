"""InstructLab's qna.yaml: seed examples of skills (versions 1 and 2) and of knowledge (version 3), both ways.

Guarantees: every example is a row of the file's document, or the file is refused with the place of the first example
that is not whole; written files have the version that their rows need. Not guaranteed: the comments of a file.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from app.datasets.messages import BadRow, each_or_fault, json_text, text_of, with_context, without_context
from app.datasets.schema import QA, with_columns

KEPT = ("version", "task_description", "created_by", "domain", "document_outline", "document", "kind")
FALLBACK_PATH = "rows"


def parse_qna(record: Mapping[str, Any]) -> Iterator[dict[str, Any] | BadRow]:
    """A row for each example; the context stands before its question, as InstructLab's generator puts it."""
    examples = record["seed_examples"]
    if not isinstance(examples, list) or not examples:
        raise BadRow("`seed_examples` is no list of examples")
    path = str(record.get("path") or "")
    extra = {key: record[key] for key in KEPT if record.get(key) is not None}
    said = {"document": path, "subject": path, "extra": json_text(extra)}
    yield from each_or_fault(examples, lambda example: _rows(example, said), name="example")


def _rows(example: Mapping[str, Any], said: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    context = text_of(example, "context") if example.get("context") else ""
    pairs = example.get("questions_and_answers", [example])
    if not isinstance(pairs, list) or not all(isinstance(pair, Mapping) for pair in pairs):
        raise BadRow("`questions_and_answers` is no list of pairs")
    for pair in pairs:
        question, answer = with_context(text_of(pair, "question"), context), text_of(pair, "answer")
        yield with_columns(QA, question=question, answer=answer, context=context, **said)


def write_qna(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """``{path: content of its qna.yaml}``; rows without a document of their own share one.

    Rows must be of the form qa without history. A file is knowledge (version 3) when its rows say so.
    """
    files: dict[str, dict[str, Any]] = {}
    ordered = sorted(rows, key=lambda row: row["document"] or FALLBACK_PATH)
    for path, group in groupby(ordered, key=lambda row: row["document"] or FALLBACK_PATH):
        members = list(group)
        said = _said(members[0])
        examples = _knowledge(members) if said.get("version") == 3 else [_example(row) for row in members]
        fallback = {"version": 2, "task_description": path, "created_by": "signalbox"}
        files[path] = {**fallback, **said, "seed_examples": examples}
    return files


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the row's own file said, when it was a qna.yaml."""
    if row["template"] != "instructlab" or not row["extra"]:
        return {}
    said = json.loads(row["extra"])
    return {key: said[key] for key in KEPT if key in said and key != "kind"}


def _example(row: Mapping[str, Any]) -> dict[str, str]:
    question, context = without_context(row)
    return {**({"context": context} if context else {}), "question": question, "answer": row["answer"]}


def _knowledge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours with the same context share it."""
    examples = [_example(row) for row in rows]
    return [
        {
            "context": context,
            "questions_and_answers": [{"question": each["question"], "answer": each["answer"]} for each in group],
        }
        for context, group in groupby(examples, key=lambda each: each.get("context", ""))
    ]
