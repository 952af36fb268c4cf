"""A version's rows as files in the formats that users have.

Guarantees: rows in = rows written + rows refused, each refusal with its reason in ``<file>.rejects.jsonl``; the same
version gives the same bytes. Not guaranteed: that every format can say what a row says; a refusal tells which cannot.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from app.core.digests import digest_json, hex_of
from app.core.errors import UsageError
from app.core.files import FileUnusable
from app.core.parquet import write_rows
from app.datasets.formats import FORMATS, format_of
from app.datasets.instructlab import write_qna
from app.datasets.messages import BadRow
from app.datasets.schema import QA, ROWS

Row = dict[str, Any]
WHOLE = ("parquet", "csv", "instructlab")
"""Formats that are more than one record a line."""
LINES = tuple(name for name in FORMATS if name != "instructlab")
FORMAT_NAMES = (*LINES, *WHOLE)


def export_rows(rows: Sequence[Row], path: Path, *, format_name: str) -> tuple[int, list[dict[str, str]]]:
    """Write rows to a file (InstructLab: a folder); how many were written, and id and reason of those that were not.

    Raises:
        UnknownFormat: there is no such format.
        FileUnusable: the place cannot be written.
    """
    writers: dict[str, Callable[[Sequence[Row], Path], list[dict[str, str]]]] = {
        "parquet": _parquet,
        "csv": _csv,
        "instructlab": _instructlab,
    }
    write = writers.get(format_name) or (lambda rows, path: _lines(rows, path, format_name))
    if path.exists() and not (format_name == "instructlab" and path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} is there already: name a new file, or for instructlab a new folder")
    if format_name not in writers:
        format_of(format_name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refused = write(rows, path)
        if refused:
            text = "".join(json.dumps(each) + "\n" for each in refused)
            path.with_name(f"{path.name}.rejects.jsonl").write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileUnusable(f"cannot write {path} ({error.strerror}): name a file in a folder that is there") from error
    return len(rows) - len(refused), refused


def _lines(rows: Sequence[Row], path: Path, format_name: str) -> list[dict[str, str]]:
    chosen, refused = format_of(format_name), []
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            try:
                file.write(json.dumps(chosen.write(row), ensure_ascii=False) + "\n")
            except BadRow as error:
                refused.append(_refusal(row, str(error)))
    return refused


def _parquet(rows: Sequence[Row], path: Path) -> list[dict[str, str]]:
    write_rows(path, rows, schema=ROWS)
    return []


def _csv(rows: Sequence[Row], path: Path) -> list[dict[str, str]]:
    """Every column; lists as JSON in their cell, empty columns left out."""
    columns = [name for name in ROWS.names if any(row[name] not in (None, "", [], False) for row in rows)]
    kept = {"row_id", "form", "history", "context", *columns}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([name for name in ROWS.names if name in kept])
        for row in rows:
            writer.writerow([_cell(row[name]) for name in ROWS.names if name in kept])
    return []


def _cell(value: object) -> object:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def _instructlab(rows: Sequence[Row], path: Path) -> list[dict[str, str]]:
    fitting = [row for row in rows if row["form"] == QA and not row["history"] and not row["unmask"]]
    for name, content in write_qna(fitting).items():
        folder = path / _inside(name)
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        (folder / "qna.yaml").write_text(text, encoding="utf-8")
    path.mkdir(parents=True, exist_ok=True)
    known = {id(row) for row in fitting}
    return [_refusal(row, "is no single question with its answer") for row in rows if id(row) not in known]


def _inside(name: str) -> Path:
    """A path below the folder for a document's name; one that would lead out of it is named by its digest."""
    path = Path(name)
    odd = path.is_absolute() or ".." in path.parts or any(ord(letter) < 32 for letter in name) or len(name) > 200
    return Path(hex_of(digest_json(name))[:16]) if odd else path


def _refusal(row: Row, reason: str) -> dict[str, str]:
    return {"row_id": row["row_id"], "reason": reason}
