"""Moves of production with all that follows: the leaf, the redeploy, and MLflow's alias.

Guarantees: the ledger is written first, and the gateway asks it what is stopped; a move that was made already is not
made again, but is deployed again, so that every command may be repeated. Not guaranteed: that a cluster that is down
serves what was moved; it does when it is deployed next.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import inspect

from app.governance import promotion
from app.governance.moves import is_stopped
from app.ledger.keys import Signer
from app.registry.tracking import Tracker
from app.registry.versions import PRODUCTION, Registry, Version
from app.serving.deploy import LOCAL_CONFIG, deploy

RELEASE = "release"
Config = Path | None


def in_production(name: str, *, registry: Registry) -> Version:
    """The release of a name that is in production; VersionNotFound when there is none."""
    return registry.get(RELEASE, f"{name}@{PRODUCTION}")


def roll_back(
    to: Version,
    *,
    registry: Registry,
    reason: str,
    signer: Signer | None = None,
    config_path: Path | None = LOCAL_CONFIG,
) -> None:
    """Put an earlier release back, serve it, and tell MLflow.

    Args:
        config_path: Serve config to deploy; None: nothing is deployed from here.
    """
    promotion.rollback(to, registry=registry, reason=reason, signer=signer)
    with ThreadPoolExecutor(1, thread_name_prefix="mlflow") as pool:  # its import takes as long as the redeploy
        told = pool.submit(tell_mlflow, to, registry=registry)
        _deploy(to, registry, config_path)
        told.result()


def stop(
    release: Version,
    *,
    registry: Registry,
    reason: str,
    signer: Signer | None = None,
    config_path: Path | None = LOCAL_CONFIG,
) -> None:
    """Take a release's models out of service; the extractive reader answers alone."""
    if not is_stopped(registry, release):
        promotion.stop(release, registry=registry, reason=reason, signer=signer)
    _deploy(release, registry, config_path)


def resume(
    release: Version,
    *,
    registry: Registry,
    reason: str,
    signer: Signer | None = None,
    config_path: Path | None = LOCAL_CONFIG,
) -> None:
    """Serve a stopped release with its models again."""
    promotion.resume(release, registry=registry, reason=reason, signer=signer)
    _deploy(release, registry, config_path)


def tell_mlflow(release: Version, *, registry: Registry) -> None:
    """Point MLflow's alias at the release's small model, if it has one and MLflow was ever used here."""
    if release.facts["small"] and inspect(registry.database.engine).has_table("registered_models"):
        model = registry.get("model", release.facts["small"])
        Tracker(registry.workspace).set_production(model.name, model)


def _deploy(release: Version, registry: Registry, config_path: Path | None) -> None:
    if config_path is not None:
        deploy(workspace=registry.workspace, release_ref=release.digest, config_path=config_path)
