"""Small files of a user's or of our own: read with one sentence for whatever is wrong, replaced whole.

Guarantees: a reader of a file that :func:`replace_text` writes sees the old text or the new one, never a part.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from app.core.errors import UsageError


class FileUnusable(UsageError):
    """A file is missing, unreadable or not of its form: mend it, or name another."""


def read_text(path: Path) -> str:
    """A file's text, in UTF-8; FileUnusable says why there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileUnusable(f"cannot read {path} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise FileUnusable(f"cannot read {path} (not text in UTF-8)") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, an empty one where it holds nothing; FileUnusable says what is wrong."""
    try:
        data = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise FileUnusable(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict | None):
        raise FileUnusable(f"{path} is not a mapping, a list of names with values")
    return data or {}


def replace_text(path: Path, text: str) -> None:
    """Write a file whole, in place of the one before."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise FileUnusable(f"cannot write {path} ({error.strerror}): name a file in a folder that is there") from error
