"""Recompute what leaves name: manifests and artifact files.

Guarantees: every manifest and file that a leaf commits to is read whole; changed, missing and extra files are named;
one that an erasure leaf names must have the bytes that the erasure left, and is a note.
Not guaranteed: anything about artifacts that no leaf names (a publication that a crash cut short leaves such).
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from app.core.digests import digest_bytes
from app.core.store import ArtifactMissing, Store
from app.ledger.erasures import ERASE_AGAIN, REWRITABLE, ErasedFile, Erasures, read_erasures
from app.ledger.faults import Report
from app.ledger.log import ERASURE, KEY, REQUEST_BATCH, Statement
from app.ledger.verify_tree import Row


def verify_artifacts(
    rows: Sequence[Row],
    store: Store,
    names: Mapping[str, str],
    report: Report,
    *,
    left_out: Collection[str] = frozenset(),
) -> dict[str, Any]:
    """Check every published artifact once; the manifests that hold come back by digest.

    Args:
        names: human references by digest, for the report.
        left_out: versions whose files need not be there, as in an evidence pack; those that are there are checked.
    """
    erasures = erasures_of(rows, store)
    manifests: dict[str, Any] = {}
    for kind, digest, statement in _published(rows):
        where = f"{kind} {names.get(digest) or (statement.name if statement else '')} ({digest[:19]})"
        report.num_artifacts += 1
        manifest = _check_manifest(store, kind, digest, where, report)
        if manifest is not None:
            manifests[digest] = manifest
            _check_files(store, kind, digest, manifest, where, report, whole=digest not in left_out, erasures=erasures)
            _check_statement(statement, manifest, where, report)
    return manifests


def erasures_of(rows: Iterable[Row], store: Store) -> Erasures:
    """What the log's erasure leaves say was removed."""
    return read_erasures([(row.index, row.statement) for row in rows if row.statement and row.kind == ERASURE], store)


def _published(rows: Iterable[Row]) -> Iterator[tuple[str, str, Statement | None]]:
    """Kind and digest of every manifest that leaves name; where a leaf is unreadable, its columns speak."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        digest = row.statement.payload if row.statement else row.subject * (row.kind != KEY)
        if digest and row.kind != REQUEST_BATCH and (row.kind, digest) not in seen:
            seen.add((row.kind, digest))
            yield row.kind, digest, row.statement


def _check_manifest(store: Store, kind: str, digest: str, where: str, report: Report) -> dict[str, Any] | None:
    try:
        data = store.manifest_bytes(kind, digest)
    except (ArtifactMissing, OSError, ValueError) as error:
        report.add("missing-artifact", where, f"its manifest cannot be read ({error})")
        return None
    if digest_bytes(data) != digest:
        report.add("changed-manifest", where, "its manifest's bytes are not those published; its files stay unchecked")
        return None
    manifest = _read_manifest(data)
    if manifest is None:
        report.add("changed-manifest", where, "its manifest is not one that the store writes: it was made elsewhere")
    return manifest


def _read_manifest(data: bytes) -> dict[str, Any] | None:
    """A manifest of the form that ``Store.publish`` writes, else None."""
    try:
        manifest: dict[str, Any] = json.loads(data)
        maps = [manifest["inputs"], manifest["facts"], manifest["files"], *manifest["files"].values()]
        whole = all(isinstance(each, dict) for each in maps) and isinstance(manifest["parents"], list)
        digests = [entry["sha256"] for entry in manifest["files"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if whole and all(isinstance(digest, str) for digest in digests) else None


def _check_files(
    store: Store,
    kind: str,
    digest: str,
    manifest: Mapping[str, Any],
    where: str,
    report: Report,
    *,
    whole: bool,
    erasures: Erasures,
) -> None:
    found = store.list_files(kind, digest)
    for name, entry in manifest["files"].items():
        read, place = partial(store.file_digest, kind, digest, name), f"{where}: {name}"
        if (name in found or whole) and (erased := erasures.of(kind, digest, name)):
            check_erased(read, entry["sha256"], erased, place, report)
        elif name in found:
            _check_file(read, entry["sha256"], place, report)
        elif whole:
            report.num_files += 1
            report.add("missing-file", place, "the file is gone: restore it, or publish a new version")
    for name in sorted(found - manifest["files"].keys()):
        report.add("extra-file", f"{where}: {name}", "no manifest names this file: it was put there afterwards")


def check_erased(
    read: Callable[[], str], published: str, erased: Sequence[tuple[int, ErasedFile]], where: str, report: Report
) -> None:
    """A file that erasures took bytes from: it has the bytes that the last of them left, or is gone when it says so."""
    before = published
    for index, entry in erased:
        if entry.old != before:
            report.add("bad-erasure", where, f"leaf {index} erases other bytes than those that were there")
        if entry.new and not entry.file.endswith(REWRITABLE):
            report.add("bad-erasure", where, f"leaf {index} rewrites it, where an erasure may only remove it")
        before = entry.new
    index, last = erased[-1]
    report.num_files += 1
    try:
        found = read()
    except FileNotFoundError:
        found = ""
    if found == last.new:
        report.notes.append(f"{where}: erased by leaf {index}")
    elif found == last.old:
        message = f"leaf {index} says it was erased and it is still there: {ERASE_AGAIN}"
        report.add("erasure-under-way", where, message)
    elif not found:
        report.add("missing-file", where, f"leaf {index} erased rows of it, and now the whole file is gone")
    else:
        report.add(
            "changed-file", where, f"its bytes ({found[:19]}) are not those that the erasure in leaf {index} left"
        )


def _check_file(read: Callable[[], str], digest: str, where: str, report: Report) -> None:
    """Compare a file's digest as it is read now with the one published."""
    report.num_files += 1
    try:
        found = read()
    except OSError as error:
        report.add("unreadable-file", where, f"the file cannot be read ({error.strerror})")
    else:
        if found != digest:
            report.add("changed-file", where, f"its bytes are not those published ({found[:19]}, not {digest[:19]})")


def _check_statement(statement: Statement | None, manifest: Mapping[str, Any], where: str, report: Report) -> None:
    """A published version's leaf says the same as its manifest."""
    if statement is None or statement.payload != statement.subject:
        return
    said = (statement.kind, statement.name, list(statement.parents))
    if said != (manifest.get("kind"), manifest.get("name"), manifest.get("parents")):
        report.add("wrong-statement", where, "its leaf names another kind, name or parents than its manifest")
