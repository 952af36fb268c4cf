"""What a person says of a document: a file beside it, the front matter of Markdown, the fields of a row.

``fees.pdf.meta.yaml`` (or ``.yml``, ``.json``) beside ``fees.pdf`` may give ``title``, ``date`` (or ``created``),
``modified``, ``language``, ``licence`` (or ``license``), ``uri`` (or ``url``) and ``access_labels``. It goes before
what the document says of itself; labels of both add up, since a chunk is seen by who holds all of them.

Guarantees: what is said of a document counts as it is written, or the document is refused with the reason: a document
whose labels cannot be read is never published without them. Not guaranteed: that a name which is no field of a front
matter or of a row was meant for one; a sidecar's unknown names are refused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core.digests import digest_bytes
from app.documents.errors import BadLabels, CannotConvert
from app.documents.facts import LABELS, facts_of_fields
from app.documents.sections import Converted, Facts, one_line

SIDECAR = re.compile(r"^(.+)\.meta\.(?:ya?ml|json)$", re.IGNORECASE)
MAX_BYTES = 65_536
TEXTS = {
    "title": "title",
    "date": "created",
    "created": "created",
    "modified": "modified",
    "language": "language",
    "licence": "licence",
    "license": "licence",
    "uri": "uri",
    "url": "uri",
}
"""Fields of a sidecar, and the fact that each gives."""


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says, and the digest of its bytes."""

    digest: str
    title: str = ""
    facts: Facts = field(default_factory=Facts)

    def apply(self, converted: Converted) -> Converted:
        """A document as its sidecar says."""
        named = converted.renamed(self.title) if self.title else converted
        return named.with_facts(self.facts, first=True)

    def apply_to_row(self, converted: Converted) -> Converted:
        """A row of a file of documents: what the row says itself goes before what is said of the whole file."""
        return converted.with_facts(self.facts)


def document_of(name: str) -> str | None:
    """The name of the document that a sidecar of this name is beside; None where it is no sidecar's name."""
    match = SIDECAR.match(name)
    return match.group(1) if match else None


def read_sidecar(paths: Iterable[Path]) -> Sidecar | None:
    """The sidecar of a document, None where it has none.

    Raises:
        CannotConvert: it cannot be read, or there are two.
    """
    found = sorted(paths)
    if not found:
        return None
    if len(found) > 1:
        raise CannotConvert(f"it has two sidecars ({found[0].name}, {found[1].name}): keep one")
    if found[0].is_symlink() or not found[0].is_file():
        raise CannotConvert(f"its sidecar {found[0].name} is not a regular file")
    try:
        with found[0].open("rb") as file:
            return _sidecar(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise CannotConvert(f"its sidecar {found[0].name} cannot be read: {error.strerror}") from error
    except (ValueError, BadLabels) as error:
        raise CannotConvert(f"its sidecar {found[0].name} is refused: {one_line(str(error))[:200]}") from error


def _sidecar(data: bytes) -> Sidecar:
    fields = _fields(data)
    unknown = sorted(set(fields) - {*TEXTS, LABELS})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}: known are {', '.join(sorted({*TEXTS, LABELS}))}")
    facts = facts_of_fields(fields)
    for name, value in fields.items():
        fact = TEXTS.get(name)
        said = fact == "title" and isinstance(value, str) and value.strip()
        if fact and not said and (fact == "title" or getattr(facts, fact) is None):
            raise ValueError(f"{name} is not one: {str(value)[:60]!r}")
    return Sidecar(digest_bytes(data), one_line(str(fields.get("title", ""))), facts)


def _fields(data: bytes) -> dict[str, Any]:
    """The fields of a YAML or JSON file, JSON being YAML as far as fields go."""
    import yaml

    if len(data) > MAX_BYTES:
        raise ValueError(f"it exceeds {MAX_BYTES} bytes")
    try:
        fields = yaml.safe_load(data.decode("utf-8-sig"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("it must hold fields, as `title: Fees`")
    return {str(name): value for name, value in fields.items()}
