"""Which API key holds which access labels: the workspace's file of grants, and what the ledger's leaves say of them.

A leaf's subject is the digest of the API key, its payload names a manifest of kind ``access``: the event (``grant`` or
``revoke``) and the labels. Names of holders stand in the file alone.
Guarantees: neither file nor leaf holds a key; a grant counts where file and leaves agree, so that an edited or
restored file opens nothing; a revocation is final.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import UsageError
from app.ledger.faults import Report
from app.ledger.log import ACCESS, Leaf

GRANT, REVOKE = "grant", "revoke"
Held = Mapping[str, frozenset[str]]
"""Access labels by the digest of an API key."""


class AccessUnreadable(UsageError):
    """The file of API keys is damaged: restore it, or remove it and grant anew."""


@dataclass(frozen=True)
class Grant:
    """One key: its holder's name and the labels of the chunks that it may see."""

    name: str
    labels: tuple[str, ...]


def digest_of(key: str) -> str:
    """What is kept of a key; keys are random, so a plain digest tells nothing."""
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()}"


def read_grants(path: Path) -> dict[str, Grant]:
    """Grants of the file by digest of their keys; none when there is no file.

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


def read_access(leaves: Iterable[Leaf], manifest_of: Callable[[str, str], Mapping[str, Any] | None]) -> Held:
    """What the leaves grant and have not revoked; a leaf whose manifest cannot be had grants nothing."""
    held: dict[str, frozenset[str]] = {}
    revoked: set[str] = set()
    for leaf in leaves:
        if leaf.statement.kind != ACCESS:
            continue
        facts = (manifest_of(ACCESS, leaf.statement.payload) or {}).get("facts", {})
        if facts.get("event") == GRANT:
            held[leaf.statement.subject] = frozenset(map(str, facts.get("labels", ())))
        else:
            revoked.add(leaf.statement.subject)
    return {digest: labels for digest, labels in held.items() if digest not in revoked}


def agreed(grants: Mapping[str, Grant], held: Held) -> dict[str, Grant]:
    """Those of the file's grants that the ledger says too."""
    return {digest: grant for digest, grant in grants.items() if held.get(digest) == frozenset(grant.labels)}


def verify_access(path: Path, log: Iterable[Leaf], manifests: Mapping[str, Any], report: Report) -> None:
    """Name every grant of the file that no leaf says; ``manifests`` are those that hold, by digest."""
    try:
        grants = read_grants(path)
    except (AccessUnreadable, OSError) as error:
        report.add("unreadable-access", path.name, str(error))
        return
    for name in sorted(_unrecorded(grants, read_access(log, lambda _, digest: manifests.get(digest)))):
        report.add("unrecorded-access", f"{path.name}, key of {name}", "no leaf grants it these labels, or one revoked")


def _unrecorded(grants: Mapping[str, Grant], held: Held) -> Iterator[str]:
    counted = agreed(grants, held)
    return (grant.name for digest, grant in grants.items() if digest not in counted)
