"""Who may see what: API keys and the access labels that each holds, in one file of the workspace.

Guarantees: the file holds digests of random keys, never a key; it is written whole and read again when it
changed, so that a grant or a revocation counts from the next request on; whoever shows no key, or an unknown
one, sees public chunks alone; a file that cannot be read grants nothing. Not guaranteed: that a *model* keeps what it
was trained on to itself: train on chunks that all its callers may see.
"""

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from app.core.errors import UsageError
from app.core.files import replace_text

logger = logging.getLogger(__name__)
PREFIX = "sb-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


class BadGrant(UsageError):
    """A key's name or label cannot be used, is taken, or is not there; the message says which."""


class AccessUnreadable(UsageError):
    """The file of API keys is damaged: restore it, or remove it and grant anew."""


@dataclass(frozen=True)
class Grant:
    """One key: its holder's name and the labels of the chunks that it may see."""

    name: str
    labels: tuple[str, ...]


class AccessList:
    """The grants of a workspace."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen, self._grants = path, (0, 0), dict[str, Grant]()

    def labels_of(self, authorization: str | None) -> frozenset[str]:
        """Labels of the key in an ``Authorization: Bearer KEY`` header; none for no key and for an unknown one."""
        shown = BEARER.fullmatch((authorization or "").strip())
        grant = self._current().get(digest_of(shown[1])) if shown else None
        return frozenset(grant.labels) if grant else frozenset()

    def _current(self) -> dict[str, Grant]:
        """The grants as the file has them now."""
        try:
            stat = self._path.stat()
            if (now := (stat.st_mtime_ns, stat.st_ino)) != self._seen:
                self._grants, self._seen = read_grants(self._path), now
        except FileNotFoundError:
            self._grants, self._seen = {}, (0, 0)
        except (OSError, AccessUnreadable) as error:
            logger.error("no key grants anything until this is mended: %s", error)
            self._grants, self._seen = {}, (0, 0)
        return self._grants


def digest_of(key: str) -> str:
    """What is kept of a key; keys are random, so a plain digest tells nothing."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def read_grants(path: Path) -> dict[str, Grant]:
    """Grants by digest of their keys; none when there is no file.

    Raises:
        AccessUnreadable: the file is damaged.
    """
    try:
        held = json.loads(path.read_text())
        return {digest: Grant(each["name"], tuple(map(str, each["labels"]))) for digest, each in held.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AccessUnreadable(f"{path} is damaged: restore it, or remove it and grant anew") from error


def add_grant(path: Path, name: str, labels: Iterable[str]) -> str:
    """Make a key that holds labels; the key comes back and is kept nowhere.

    Raises:
        BadGrant: the name is taken or no name, or a label is empty.
    """
    grants, wanted = read_grants(path), tuple(sorted(set(labels)))
    if not NAME.fullmatch(name) or not wanted or not all(label.strip() == label != "" for label in wanted):
        raise BadGrant(f"cannot grant {list(wanted)} to {name!r}: use letters and digits, and name at least one label")
    if any(grant.name == name for grant in grants.values()):
        raise BadGrant(f"there is a key named {name} already: remove it first, or take another name")
    key = PREFIX + secrets.token_urlsafe(32)
    _write(path, {**grants, digest_of(key): Grant(name, wanted)})
    return key


def remove_grant(path: Path, name: str) -> None:
    """Take a key's labels away; BadGrant when there is none of that name."""
    grants = read_grants(path)
    kept = {digest: grant for digest, grant in grants.items() if grant.name != name}
    if len(kept) == len(grants):
        raise BadGrant(f"there is no key named {name!r}: `signalbox access list` shows them")
    _write(path, kept)


def _write(path: Path, grants: dict[str, Grant]) -> None:
    held = {digest: asdict(grant) for digest, grant in sorted(grants.items(), key=lambda item: item[1].name)}
    replace_text(path, json.dumps(held, indent=2) + "\n")
