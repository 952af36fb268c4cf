"""The artifact store: whole versions, named by the digest of their manifest, on any pyarrow filesystem.

Layout: ``<uri>/<kind>/<64 hex>/files/...`` and ``manifest.json`` beside them, written last.

Guarantees: a reader sees a whole version or none; publishing what is there already changes nothing; a manifest
names the sha256 and size of every file; only ``erase`` changes a published file, and marks the version. Not guaranteed:
that bytes stay what they were; ``signalbox verify`` checks it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyarrow import ArrowInvalid, fs

from app.core.digests import canonical_json, digest_bytes, digest_file, digest_stream, hex_of
from app.core.errors import SignalboxError, UsageError

MANIFEST = "manifest.json"
FILES = "files"
ERASED = "erased"
"""Beside the manifest of a version that lost bytes by erasure: a text that changes with every one of them."""


class ArtifactMissing(SignalboxError):
    """The store holds no such version: restore the store, or publish the version again."""


class StoreUnusable(UsageError):
    """The store's URI names no file system that can be reached: correct $SIGNALBOX_STORE_URI."""


class Store:
    """Versions of artifacts under one URI (``file://``, ``s3://``, ``gs://``, ``abfs://``)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._fs, self._root = fs.FileSystem.from_uri(uri)
        except (ArrowInvalid, OSError) as error:
            message = f"cannot use {uri} as the artifact store ({error}): correct $SIGNALBOX_STORE_URI"
            raise StoreUnusable(message) from error

    def publish(self, kind: str, folder: Path | None, manifest: Mapping[str, Any]) -> str:
        """Publish a folder's files under ``manifest`` and return the digest; a version already there stays as it is."""
        whole = {**manifest, "files": describe_files(folder) if folder else {}}
        data = canonical_json(whole)
        digest = digest_bytes(data)
        if not self.has(kind, digest):
            self._copy_in(folder, self._path(kind, digest))
            self._write_last(f"{self._path(kind, digest)}/{MANIFEST}", data)
        return digest

    def has(self, kind: str, digest: str) -> bool:
        """Whether a whole version is there."""
        return bool(self._fs.get_file_info(f"{self._path(kind, digest)}/{MANIFEST}").type == fs.FileType.File)

    def manifest_bytes(self, kind: str, digest: str) -> bytes:
        """A version's manifest as it lies there, unchecked.

        Raises:
            ArtifactMissing: there is no such version.
        """
        try:
            with self._fs.open_input_stream(f"{self._path(kind, digest)}/{MANIFEST}") as stream:
                return bytes(stream.read())
        except FileNotFoundError as error:
            raise ArtifactMissing(f"the store has no {kind} {digest}: restore it, or publish it again") from error

    def manifest(self, kind: str, digest: str) -> dict[str, Any]:
        """A version's manifest."""
        manifest: dict[str, Any] = json.loads(self.manifest_bytes(kind, digest))
        return manifest

    def folder(self, kind: str, digest: str) -> Path:
        """A local folder with the version's files, to be read only; a remote store is copied to a cache first."""
        self.manifest_bytes(kind, digest)
        remote = f"{self._path(kind, digest)}/{FILES}"
        if isinstance(self._fs, fs.LocalFileSystem):
            return Path(remote)
        cache = _cache_dir() / kind / f"{hex_of(digest)}{self.erased_mark(kind, digest)}"
        if not cache.exists():
            self._forget(kind, digest)
            staged = Path(tempfile.mkdtemp(dir=_made(cache.parent)))
            fs.copy_files(remote, str(staged), source_filesystem=self._fs)
            try:
                staged.replace(cache)
            except OSError:
                if not cache.exists():  # else another process was faster
                    raise
        return cache

    def file_digest(self, kind: str, digest: str, name: str) -> str:
        """Digest of a version's file as it lies in the store now, whatever was copied to a cache before.

        Raises:
            OSError: the file is not there or cannot be read.
        """
        with self._fs.open_input_stream(f"{self._path(kind, digest)}/{FILES}/{name}") as stream:
            return digest_stream(stream)

    def list_files(self, kind: str, digest: str) -> set[str]:
        """Relative paths of the files that really lie in a version."""
        base = f"{self._path(kind, digest)}/{FILES}"
        found = self._fs.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=True))
        return {info.path.removeprefix(base).lstrip("/") for info in found if info.type == fs.FileType.File}

    def erase(self, kind: str, digest: str, name: str, replacement: Path | None) -> None:
        """Remove a published file, or put what is left of it in its place; the bytes before are gone.

        For erasure alone, which first names the file's old and new digest in the ledger, and calls ``mark_erased``
        when it is done with the version.
        """
        target = f"{self._path(kind, digest)}/{FILES}/{name}"
        if replacement:
            fs.copy_files(str(replacement), f"{target}.tmp", destination_filesystem=self._fs)
            self._fs.move(f"{target}.tmp", target)
        elif self._fs.get_file_info(target).type == fs.FileType.File:
            self._fs.delete_file(target)

    def mark_erased(self, kind: str, digest: str) -> None:
        """Tell whoever holds a version in memory or in a cache to read it again."""
        self._write_last(f"{self._path(kind, digest)}/{ERASED}", f"-{os.urandom(8).hex()}".encode())
        self._forget(kind, digest)

    @property
    def local_root(self) -> Path | None:
        """The folder of a store on this machine; None for a remote one."""
        return Path(self._root) if isinstance(self._fs, fs.LocalFileSystem) else None

    def erased_mark(self, kind: str, digest: str) -> str:
        """Empty for a version as it was published; another text after every erasure from it."""
        try:
            with self._fs.open_input_stream(f"{self._path(kind, digest)}/{ERASED}") as stream:
                return bytes(stream.read()).decode("ascii", "replace")
        except FileNotFoundError:
            return ""

    def _forget(self, kind: str, digest: str) -> None:
        """Drop every local copy of a version; a copy may hold what was erased since."""
        for copy in (_cache_dir() / kind).glob(f"{hex_of(digest)}*"):
            shutil.rmtree(copy, ignore_errors=True)

    def _path(self, kind: str, digest: str) -> str:
        return f"{self._root}/{kind}/{hex_of(digest)}"

    def _copy_in(self, folder: Path | None, target: str) -> None:
        self._fs.create_dir(f"{target}/{FILES}", recursive=True)
        for path in walk_files(folder) if folder else ():
            name = path.relative_to(folder).as_posix()  # type: ignore[arg-type]
            self._fs.create_dir(f"{target}/{FILES}/{name}".rpartition("/")[0], recursive=True)
            fs.copy_files(str(path), f"{target}/{FILES}/{name}", destination_filesystem=self._fs)

    def _write_last(self, path: str, data: bytes) -> None:
        with self._fs.open_output_stream(f"{path}.tmp") as stream:
            stream.write(data)
        self._fs.move(f"{path}.tmp", path)


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in the order of their relative names."""
    return iter(sorted(path for path in folder.rglob("*") if path.is_file()))


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """``{relative path: {"sha256": digest, "bytes": size}}`` of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": digest_file(path), "bytes": path.stat().st_size}
        for path in walk_files(folder)
    }


def _cache_dir() -> Path:
    """Where remote versions are kept, this user's alone: what others could write there would be loaded."""
    folder = Path(tempfile.gettempdir()) / f"signalbox-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise StoreUnusable(f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of your own")
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
