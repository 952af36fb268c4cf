"""Hold guarantees against the routers that they are about, and voids against guarantees.

Guarantees: named are a guarantee or a void that no key on record signed for this log, one whose promise is not that of
its router's file, and one about a router that no leaf before it publishes. A router whose guarantee no leaf states is a
note: the gateway takes it for void. Not guaranteed: that the promise was kept; an audit estimates that.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.core.store import ArtifactMissing, Store
from app.ledger.faults import Report
from app.ledger.guarantees import ROUTER, ROUTER_FILE, find_promise_fault, find_statement_fault
from app.ledger.key_book import KeyBook
from app.ledger.keys import Verifier
from app.ledger.log import GUARANTEE, VOID, Leaf


def verify_guarantees(
    log: Sequence[Leaf], manifests: Mapping[str, Any], verifier: Verifier | None, store: Store, report: Report
) -> None:
    """Check every guarantee and every void.

    Args:
        manifests: those that hold, by digest.
        verifier: the log's key; None when it cannot be had.
    """
    if not any(leaf.statement.kind in (ROUTER, GUARANTEE, VOID) for leaf in log):
        return
    keys = KeyBook.read(log, lambda _, digest: manifests.get(digest))
    log_key = verifier.vkey if verifier else ""
    routers: dict[str, Mapping[str, Any]] = {}
    stated: set[str] = set()
    for leaf in log:
        statement = leaf.statement
        if statement.kind == ROUTER and statement.subject in manifests:
            routers[statement.subject] = _file_of(store, statement.subject, manifests[statement.subject])
        elif statement.kind in (GUARANTEE, VOID) and statement.payload in manifests:
            record, where = manifests[statement.payload], f"leaf {leaf.index}, {statement.kind} of {statement.name}"
            fault = find_statement_fault(leaf, record, keys, log_key=log_key)
            if fault := fault or _misplaced(leaf, record, routers):
                report.add(f"bad-{statement.kind}", where, fault)
            stated.add(statement.subject)
    for digest in (digest for digest, router in routers.items() if router.get("guarantee") and digest not in stated):
        report.notes.append(f"router {digest[:19]}: no leaf states its guarantee, so that it counts as void")


def _misplaced(leaf: Leaf, record: Mapping[str, Any], routers: Mapping[str, Mapping[str, Any]]) -> str | None:
    router = routers.get(leaf.statement.subject)
    if router is None:
        return "no leaf before it publishes the router that it is about"
    return find_promise_fault(record, router) if leaf.statement.kind == GUARANTEE else None


def _file_of(store: Store, digest: str, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """A router's file; empty when there is none that can be read, which is named among the files."""
    if ROUTER_FILE not in manifest["files"]:
        return {}
    try:
        value = json.loads((store.folder(ROUTER, digest) / ROUTER_FILE).read_text())
    except (OSError, ValueError, ArtifactMissing):
        return {}
    return value if isinstance(value, Mapping) else {}
