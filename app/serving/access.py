"""Who may see what: API keys and the access labels that each holds, in one file of the workspace and in the ledger.

Guarantees: a grant and a revocation are leaves before they count; the file holds digests of random keys, never a key;
it is written whole and read again when it changed, so that both count from the next request on; a grant that the
ledger does not say, an edited file and a damaged one open nothing; whoever shows no key, or an unknown one, sees public
chunks alone. Not guaranteed: that a *model* keeps what it was trained on to itself: train on chunks that all its
callers may see.
"""

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import SignalboxError, UsageError
from app.core.files import replace_text
from app.governance.keys import manifests_of
from app.ledger.access_book import GRANT, REVOKE, Grant, Held, agreed, digest_of, read_access, read_grants
from app.ledger.log import ACCESS, Statement
from app.registry.versions import Registry

logger = logging.getLogger(__name__)
PREFIX = "sb-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


class BadGrant(UsageError):
    """A key's name or label cannot be used, is taken, or is not there; the message says which."""


class AccessList:
    """The grants of a workspace, as requests are held against them."""

    def __init__(self, path: Path, recorded: Callable[[], Held]) -> None:
        """Take the file, and what asks the ledger; it is asked when the file changed."""
        self._path, self._recorded = path, recorded
        self._seen, self._grants = (0, 0), dict[str, Grant]()

    @classmethod
    def of(cls, registry: Registry) -> Self:
        """The list of a registry's workspace."""
        return cls(registry.workspace.access_path, lambda: recorded_access(registry))

    def find(self, authorization: str | None) -> tuple[str, Grant] | None:
        """Digest and grant of the key in such a header; None for no key and for an unknown one."""
        shown = BEARER.fullmatch((authorization or "").strip())
        digest = digest_of(shown[1]) if shown else ""
        grant = self._current().get(digest)
        return (digest, grant) if grant else None

    def _current(self) -> Mapping[str, Grant]:
        """The grants as file and ledger have them now."""
        try:
            stat = self._path.stat()
            if (now := (stat.st_mtime_ns, stat.st_ino)) != self._seen:
                self._grants, self._seen = self._read(), now
        except FileNotFoundError:
            self._grants, self._seen = {}, (0, 0)
        except (OSError, SignalboxError, SQLAlchemyError) as error:
            logger.error("no key grants anything until this is mended: %s", error)
            self._grants, self._seen = {}, (0, 0)
        return self._grants

    def _read(self) -> dict[str, Grant]:
        grants = read_grants(self._path)
        counted = agreed(grants, self._recorded())
        for grant in (grant for digest, grant in grants.items() if digest not in counted):
            logger.error("the key of %s opens nothing, for the ledger does not say so: grant it anew", grant.name)
        return counted


def digests_of(registry: Registry, names: Iterable[str]) -> list[str]:
    """Digests of the keys of these holders; BadGrant when there is none of a name."""
    held = {grant.name: digest for digest, grant in read_grants(registry.workspace.access_path).items()}
    for name in names:
        if name not in held:
            raise BadGrant(f"there is no key named {name!r}: `signalbox access list` shows them")
    return [held[name] for name in names]


def recorded_access(registry: Registry) -> Held:
    """What the ledger grants."""
    return read_access(registry.ledger.leaves(ACCESS), manifests_of(registry))


def add_grant(registry: Registry, name: str, labels: Iterable[str]) -> str:
    """Make a key that holds labels, or none; the key comes back and is kept nowhere.

    Raises:
        BadGrant: the name is taken or no name, or a label is empty.
    """
    path, wanted = registry.workspace.access_path, tuple(sorted(set(labels)))
    grants = read_grants(path)
    if not NAME.fullmatch(name) or not all(label.strip() == label != "" for label in wanted):
        raise BadGrant(f"cannot grant {list(wanted)} to {name!r}: use letters and digits, and no empty label")
    if any(grant.name == name for grant in grants.values()):
        raise BadGrant(f"there is a key named {name} already: remove it first, or take another name")
    key = PREFIX + secrets.token_urlsafe(32)
    _record(registry, GRANT, digest_of(key), wanted)
    _write(path, {**grants, digest_of(key): Grant(name, wanted)})
    return key


def remove_grant(registry: Registry, name: str) -> None:
    """Take a key's labels away; BadGrant when there is none of that name."""
    path = registry.workspace.access_path
    grants = read_grants(path)
    gone = {digest: grant for digest, grant in grants.items() if grant.name == name}
    if not gone:
        raise BadGrant(f"there is no key named {name!r}: `signalbox access list` shows them")
    for digest, grant in gone.items():
        _record(registry, REVOKE, digest, grant.labels)
    _write(path, {digest: grant for digest, grant in grants.items() if digest not in gone})


def _record(registry: Registry, event: str, digest: str, labels: Iterable[str]) -> None:
    facts = {"event": event, "labels": list(labels)}
    record = {"kind": ACCESS, "name": digest, "inputs": {"key": digest}, "parents": [], "facts": facts}
    payload = registry.store.publish(ACCESS, None, record)
    actor = registry.ledger.signer.name
    registry.ledger.append([Statement(kind=ACCESS, subject=digest, name=digest, payload=payload, actor=actor)])


def _write(path: Path, grants: Mapping[str, Grant]) -> None:
    held = {digest: asdict(grant) for digest, grant in sorted(grants.items(), key=lambda item: item[1].name)}
    replace_text(path, json.dumps(held, indent=2) + "\n")
