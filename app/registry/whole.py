"""Whether a version is still what was published: the bytes of its manifest, and of every file that it names.

Whatever serves, is trained on, or goes into production is read through here, so that weights, an index or a release
that somebody swapped in the store are refused with a sentence when they are loaded, before ``signalbox verify`` runs.

Guarantees: what comes back held when it was read; what an erasure left of a file counts as whole, and so does, where
it is loaded, a file that an erasure is about to replace. Not guaranteed: that nobody swaps a file after that.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.core.digests import digest_bytes, digest_file
from app.core.errors import SignalboxError, UsageError
from app.ledger.erasures import Erasures, erasures_in
from app.registry.tables import CHUNKS_FILE
from app.registry.versions import Registry, Version


class ArtifactChanged(SignalboxError):
    """A manifest or a file is not the one that was published: restore it from a backup, or publish a new version."""


class NoChunks(UsageError):
    """The dataset holds rows instead of documents: name one that was ingested."""


def whole_folder(version: Version, registry: Registry, *, only: Callable[[str], bool] = bool) -> Path:
    """A version's folder, to be read only.

    Args:
        only: which files, by their names, are to be read; the others are not looked at.

    Raises:
        ArtifactChanged: its manifest or one of its files is not the one published.
    """
    check_manifest(version, registry)
    folder = registry.folder(version)
    check_files(version, folder, erasures=erasures_in(registry.ledger, registry.store), under_way=True, only=only)
    return folder


def chunks_of(version: Version, registry: Registry) -> Path:
    """The file of a dataset's chunks.

    Raises:
        NoChunks: it is a dataset of imported rows.
    """
    path = registry.folder(version) / CHUNKS_FILE
    if CHUNKS_FILE not in version.manifest["files"]:
        raise NoChunks(f"{version.kind} {version.ref} holds rows, not documents: name one that jobs.ingest made")
    return path


def whole_record(kind: str, digest: str, registry: Registry) -> dict[str, Any]:
    """The record that a leaf's payload names.

    Raises:
        ArtifactMissing: it is lost.
        ArtifactChanged: it is not the one that the leaf commits to.
    """
    data = registry.store.manifest_bytes(kind, digest)
    if digest_bytes(data) != digest:
        said = f"the record {digest} of a {kind} is not the one that the ledger commits to"
        raise ArtifactChanged(f"{said}: run `signalbox verify`, then restore it from a backup")
    record: dict[str, Any] = json.loads(data)
    return record


def check_manifest(version: Version, registry: Registry) -> None:
    """ArtifactChanged when the bytes of a version's manifest are not those that its digest names."""
    if digest_bytes(registry.store.manifest_bytes(version.kind, version.digest)) != version.digest:
        raise _changed(version, "its manifest")


def check_files(
    version: Version,
    folder: Path,
    *,
    erasures: Erasures | None = None,
    under_way: bool = False,
    only: Callable[[str], bool] = bool,
) -> None:
    """ArtifactChanged when a file of a version is missing or is not the one published, or what an erasure left of it.

    Args:
        under_way: take bytes that the last erasure has named and not replaced yet.
        only: which files are looked at, by their names; all of them by default.
    """
    erasures = erasures or Erasures()
    for name, entry in ((name, entry) for name, entry in version.manifest["files"].items() if only(name)):
        erased = erasures.of(version.kind, version.digest, name)
        wanted = {erased[-1][1].new if erased else entry["sha256"]}
        wanted |= {erased[-1][1].old} if erased and under_way else set()
        path = folder / name
        if (digest_file(path) if path.is_file() else "") not in wanted:
            raise _changed(version, name)


def _changed(version: Version, what: str) -> ArtifactChanged:
    message = f"{version.kind} {version.ref}: {what} is not the file that was published"
    return ArtifactChanged(f"{message}: run `signalbox verify`, then restore it from a backup")
