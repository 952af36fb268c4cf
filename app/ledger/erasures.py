"""Erasure records: which published bytes were removed on purpose, so that verification can tell them from damage.

An erasure leaf names a manifest (``payload``); its ``facts.files`` holds an entry for every file removed or rewritten,
``inputs.subject`` a salted commitment to whom it was about, and ``inputs.documents`` commitments to the documents that
must not come back. The leaf is appended before the files change: it is the journal, and a file that still has its old
bytes is an erasure under way.

Guarantees: nothing here reads or names the erased content. Not guaranteed: that an erasure was asked for. Whoever
holds the log's key can append one and rewrite a file under it; the leaf keeps who did it, when, the reason and both
digests, and a copy of the old file would show the difference. Rows of the request log can only be removed in this way,
never altered, for those that stay must open their receipts.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from app.core.digests import digest_bytes
from app.core.store import ArtifactMissing, Store
from app.ledger.log import ERASURE, REQUEST_BATCH, Ledger, Statement
from app.ledger.receipts import commit

REWRITABLE = (".parquet", ".faiss")
"""Files that consist of rows: an erasure may leave the others of them; any other file it can only remove."""

ERASE_AGAIN = "run `signalbox erase --resume`, or erase again what was put back"
"""What to do about content that a leaf says is gone."""


@dataclass(frozen=True)
class ErasedFile:
    """A file's bytes before and after. ``new`` is empty when the file is gone.

    For a part of the request log ``kind`` is ``request-batch``, ``digest`` the batch's root, and ``receipts`` the
    places of the receipts whose rows are gone.
    """

    kind: str
    digest: str
    file: str
    old: str
    new: str
    num_rows: int = 0
    receipts: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "receipts": list(self.receipts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ErasedFile":
        """Read an entry; TypeError or KeyError when it is not of the form."""
        entry = cls(**{**value, "receipts": tuple(value["receipts"])})
        texts = (entry.kind, entry.digest, entry.file, entry.old, entry.new)
        if not all(isinstance(each, str) for each in texts) or not all(type(each) is int for each in entry.receipts):
            raise TypeError(f"not an entry of an erasure: {value!r}")
        return entry


@dataclass
class Erasures:
    """What the erasure leaves of a log say, file by file and part by part, oldest first."""

    files: dict[tuple[str, str, str], list[tuple[int, ErasedFile]]] = field(default_factory=dict)
    receipts: dict[str, set[int]] = field(default_factory=dict)

    def of(self, kind: str, digest: str, file: str) -> list[tuple[int, ErasedFile]]:
        """Leaf index and entry of everything that was erased from one file."""
        return self.files.get((kind, digest, file), [])

    def digest_now(self, kind: str, digest: str, file: str, published: str) -> str:
        """What a file's digest must be now; empty when the file must be gone."""
        erased = self.of(kind, digest, file)
        return erased[-1][1].new if erased else published

    def digests_since(self, index: int) -> set[str]:
        """Digests of the versions that lost content after a leaf."""
        return {digest for (_, digest, _), erased in self.files.items() if any(leaf > index for leaf, _ in erased)}

    def since(self, digests: Iterable[str], index: int) -> list[str]:
        """A sentence for every file of some versions that lost content after a leaf."""
        wanted = set(digests)
        return [
            f"{entry.file} of {entry.kind} {entry.digest[:19]} lost {entry.num_rows} rows by the erasure in leaf {leaf}"
            for erased in self.files.values()
            for leaf, entry in erased
            if entry.digest in wanted and leaf > index
        ]


def erasures_in(ledger: Ledger, store: Store) -> Erasures:
    """What the erasure leaves of an open ledger say."""
    return read_erasures([(leaf.index, leaf.statement) for leaf in ledger.leaves(ERASURE)], store)


def read_erasures(leaves: Iterable[tuple[int, Statement]], store: Store) -> Erasures:
    """The records of erasure leaves; one whose manifest is not the one published counts for nothing."""
    found = Erasures()
    for index, statement in leaves:
        for entry in _entries(statement, store):
            found.files.setdefault((entry.kind, entry.digest, entry.file), []).append((index, entry))
            if entry.kind == REQUEST_BATCH:
                found.receipts.setdefault(entry.file, set()).update(entry.receipts)
    return found


class ErasedDocuments:
    """Documents that an erasure keeps from being ingested again."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self._known: dict[bytes, dict[str, int]] = {}
        for leaf in ledger.leaves(ERASURE):
            inputs = _manifest(leaf.statement, store).get("inputs", {})
            if blocked := inputs.get("documents"):
                self._known[bytes.fromhex(inputs["salt"])] = dict.fromkeys(blocked, leaf.index)

    def leaf_of(self, document_id: str) -> int | None:
        """Index of the erasure leaf that names a document; None when none does."""
        for salt, blocked in self._known.items():
            if (index := blocked.get(commit(salt, document_id.encode()))) is not None:
                return index
        return None

    @property
    def leaves(self) -> list[int]:
        """Indexes of the leaves that erased documents; the ledger keeps none of their names."""
        return sorted({leaf for blocked in self._known.values() for leaf in blocked.values()})

    @property
    def names(self) -> list[str]:
        """The commitments, for the inputs of whatever depends on them."""
        return sorted(name for blocked in self._known.values() for name in blocked)


def commit_documents(document_ids: Iterable[str]) -> dict[str, Any]:
    """``salt`` and ``documents`` of a record. The salt is public: who has the document may learn that it was erased."""
    salt = os.urandom(32)
    return {"salt": salt.hex(), "documents": sorted(commit(salt, each.encode()) for each in document_ids)}


def _entries(statement: Statement, store: Store) -> list[ErasedFile]:
    try:
        return [ErasedFile.from_json(entry) for entry in _manifest(statement, store)["facts"]["files"]]
    except (KeyError, TypeError):
        return []


def _manifest(statement: Statement, store: Store) -> dict[str, Any]:
    """A leaf's manifest when its bytes are those that the leaf names, else nothing; ``verify`` names the damage."""
    try:
        data = store.manifest_bytes(ERASURE, statement.payload)
        manifest = json.loads(data) if digest_bytes(data) == statement.payload else {}
    except (ArtifactMissing, OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
