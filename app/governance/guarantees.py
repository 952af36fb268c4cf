"""A router's guarantee in the ledger: stated once its version is published, voided at once when something shifted.

Guarantees: stating or voiding again changes nothing; both are signed, and the leaf of a void is what every gateway
replica looks at. Not guaranteed: that what shifted made the promise false; it only no longer follows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.errors import SignalboxError, UsageError
from app.governance.keys import key_book
from app.governance.release import ladder_of
from app.ledger.guarantees import ROUTER, Standing, sign_statement, signer_objection, standing
from app.ledger.keys import Signer
from app.ledger.log import GUARANTEE, VOID, Statement
from app.registry.versions import Registry, Version, VersionNotFound


class NoGuarantee(UsageError):
    """The router has no guarantee, or a void one: train another with jobs.train_router."""


class SignerRefused(SignalboxError):
    """The key may not sign that: use one whose role may, the message says which."""


def standing_of(registry: Registry, router: str) -> Standing:
    """How the guarantee of a router, by its digest, stands in the ledger now."""
    return standing(registry.ledger.leaves(subject=router), registry.store.manifest)


def state_guarantee(
    router: Version,
    promise: Mapping[str, Any],
    *,
    registry: Registry,
    parents: Sequence[str] = (),
    signer: Signer | None = None,
) -> None:
    """Enter a router's guarantee; one that is stated already stays.

    Args:
        promise: ``guarantee`` and ``bound_to``, as they stand in the router's file.
        parents: digests of what it was calibrated on.
        signer: whose statement it is; the log's own key by default.

    Raises:
        SignerRefused: the key's role is none that may, or it was revoked.
    """
    if not standing_of(registry, router.digest).stated:
        _enter(GUARANTEE, router, registry=registry, parents=parents, signer=signer, said=promise)


def void_guarantee(
    router: Version, reason: str, *, registry: Registry, parents: Sequence[str] = (), signer: Signer | None = None
) -> bool:
    """Enter that a router's guarantee no longer holds; False when that was entered before.

    Args:
        parents: digests of what showed it, such as a baseline.

    Raises:
        NoGuarantee: none was ever stated.
        SignerRefused: as for ``state_guarantee``.
    """
    now = standing_of(registry, router.digest)
    if not now.stated:
        raise NoGuarantee(f"router {router.ref} has no guarantee that the ledger states: train one that has")
    if now.void_because:
        return False
    _enter(VOID, router, registry=registry, parents=parents, signer=signer, said={"reason": reason})
    return True


def router_of(release: Version, *, registry: Registry) -> Version | None:
    """The router of a release; None where it has none, or one that nobody published."""
    try:
        return registry.get(ROUTER, str(release.facts.get(ROUTER)))
    except VersionNotFound:
        return None


def void_if_swapped(release: Version, *, registry: Registry) -> bool:
    """Void the guarantee of a release's router where models or index are not those that it was made with.

    The gateway falls back by itself in such a release; this enters it. Whether it was entered now.
    """
    router = router_of(release, registry=registry)
    bound_to = router.facts.get("bound_to", {}) if router else {}
    serving = {**ladder_of(release), "index": release.facts.get("index")}
    other = sorted(part for part, digest in bound_to.items() if serving.get(part) != digest)
    if router is None or not other or standing_of(registry, router.digest).objection:
        return False
    reason = f"release {release.ref} has another {', '.join(other)} than it was made with"
    return void_guarantee(router, reason, registry=registry, parents=[release.digest])


def _enter(
    kind: str,
    router: Version,
    *,
    registry: Registry,
    parents: Sequence[str],
    signer: Signer | None,
    said: Mapping[str, Any],
) -> None:
    ledger, name = registry.ledger, f"{ROUTER}/{router.name}"
    by = signer or ledger.signer
    if by.public == ledger.signer.public:
        ledger.register_key(by.public)
    if objection := signer_objection(kind, by.public, key_book(registry)):
        raise SignerRefused(f"{by.public.key_name} may not sign a {kind}: {objection}")
    record = sign_statement(kind, router.digest, name=name, signer=by, log_key=ledger.log_key, parents=parents, **said)
    payload = registry.store.publish(kind, None, record)
    statement = Statement(
        kind=kind, subject=router.digest, name=name, parents=tuple(parents), payload=payload, actor=by.public.key_name
    )
    ledger.append([statement])
