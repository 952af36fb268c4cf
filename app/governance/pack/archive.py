"""Zip files of strangers: looked over whole before the first byte is written, then unpacked into a private folder.

Guarantees: no member lands outside of the folder, none is written twice, none is larger than it says, and the sum
stays under a limit that grows with the file; anything else is refused with a sentence. A pack that is written has its
members sorted and their times fixed, so that the same content gives the same bytes.
Not guaranteed: that an archive which can be unpacked holds a pack; ``verify`` says that.
"""

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from app.core.errors import SignalboxError
from app.core.files import FileUnusable

MAX_MEMBERS = 50_000
MIN_LIMIT_BYTES = 1 << 30
MAX_RATIO = 100
"""Unpacked bytes for each packed byte, above ``MIN_LIMIT_BYTES``; text packs about tenfold."""
MAX_NAME = 1024
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
DENSE = (".parquet", ".safetensors", ".faiss", ".npz", ".bin", ".png")
"""Files that do not get smaller."""


class BadPack(SignalboxError):
    """The file is not an evidence pack that can be opened: fetch it again, or treat it as tampered with."""


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A pack's content in a temporary folder.

    Raises:
        BadPack: it is no zip, or one that only an attacker makes.
    """
    with tempfile.TemporaryDirectory(prefix="signalbox-pack-") as name:
        folder = Path(name).resolve()
        try:
            with zipfile.ZipFile(path) as archive:
                _look_over(archive, packed_bytes=path.stat().st_size)
                for info in archive.infolist():
                    _unpack(archive, info, folder)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, OSError) as error:
            raise BadPack(f"{path.name} cannot be unpacked ({error}): fetch it again") from error
        yield folder


def write_archive(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Write members, sorted, in place of the file before; the same members give the same bytes."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(staged, "w") as archive:
            for name in sorted(members):
                _add(archive, name, members[name])
        staged.replace(path)
    except OSError as error:
        raise FileUnusable(f"cannot write {path} ({error.strerror}): name a file in a folder that is there") from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    info = zipfile.ZipInfo(name, FIXED_TIME)
    info.compress_type = zipfile.ZIP_STORED if name.endswith(DENSE) else zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    if isinstance(content, bytes):
        archive.writestr(info, content)
        return
    info.file_size = content.stat().st_size
    with content.open("rb") as source, archive.open(info, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _look_over(archive: zipfile.ZipFile, *, packed_bytes: int) -> None:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise BadPack(f"it has {len(infos)} members, more than {MAX_MEMBERS}: it is refused unread")
    total, limit = sum(info.file_size for info in infos), max(MIN_LIMIT_BYTES, MAX_RATIO * packed_bytes)
    if total > limit:
        raise BadPack(f"it would unpack to {total} bytes, more than {limit} for its size: a zip bomb, refused unread")
    seen: set[str] = set()
    for info in infos:
        _check_name(info)
        if info.filename.casefold() in seen:
            raise BadPack(f"it has the member {info.filename!r} twice: nobody can tell which is meant, refused")
        seen.add(info.filename.casefold())


def _check_name(info: zipfile.ZipInfo) -> None:
    """A plain relative path of a plain file, as its own bytes spell it."""
    name = info.orig_filename
    parts = PurePosixPath(name).parts
    plain = name == info.filename == "/".join(parts) and len(name) <= MAX_NAME and name.isprintable()
    if not plain or name.startswith("/") or "\\" in name or ":" in parts[0] or {".", ".."} & set(name.split("/")):
        raise BadPack(f"it has a member named {name[:80]!r}, which could land outside of the pack: refused unread")
    mode = info.external_attr >> 16
    if info.is_dir() or (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
        raise BadPack(f"its member {name[:80]!r} is no plain file: refused unread")


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / info.filename
    if not target.resolve().is_relative_to(folder):
        raise BadPack(f"its member {info.filename[:80]!r} could land outside of the pack: refused")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
