"""Files that are there when they are said to be: copied aside, flushed to the disk, renamed, and their folders flushed.

Guarantees: after :func:`copy_durably` returned, the copies survive a loss of power on storage that keeps its word about
fsync; a copy that was cut off leaves no file with its final name. Several workers may copy into one folder at once.
"""

import os
import shutil
from pathlib import Path


def copy_durably(source: Path, target: Path) -> None:
    """Copy a folder's files into another, made when missing."""
    folders = {target}
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        into = target / path.relative_to(source)
        if path.is_dir():
            into.mkdir(parents=True, exist_ok=True)
            folders.add(into)
        else:
            _copy(path, into)
    for folder in sorted(folders, reverse=True):
        flush(folder)
    flush(target.parent)


def _copy(source: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, aside)
    flush(aside)
    aside.replace(target)


def flush(path: Path) -> None:
    """Bring a file, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
