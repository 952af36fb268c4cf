"""Deploying the application: the Serve config with a release written in, sent to the cluster's dashboard.

Guarantees: only what a promotion or a rollback put into production is deployed, and without its models when it was
stopped; when ``deploy`` returns, every deployment is healthy and the gateway answers with that release. A change of
the release alone restarts nothing: Serve hands it to the running replicas. A refusal of an earlier deployment is not
taken for one of this. Not guaranteed: that a config with other
settings (``args``, ``runtime_env``) keeps the replicas; Serve replaces them one after the other.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from app.core.cluster import dashboard, environment
from app.core.errors import UsageError
from app.core.files import FileUnusable, read_yaml
from app.core.jobs import ClusterUnreachable, Dashboard
from app.core.workspace import Workspace
from app.governance.moves import canary_leaf
from app.registry.versions import open_registry
from app.serving.errors import NotDeployed
from app.serving.release import RELEASE, resolve_production
from app.serving.settings import ReleaseConfig

LOCAL_CONFIG = Path(__file__).resolve().parents[2] / "serve_configs" / "local.yaml"
APPLICATION = "signalbox"
POLL_S = 0.25


class ConfigUnreadable(UsageError):
    """The Serve config is not one: name a file like serve_configs/local.yaml."""


def deploy(
    *, workspace: Workspace, release_ref: str, config_path: Path = LOCAL_CONFIG, timeout_s: float = 180.0
) -> str:
    """Make the cluster of a workspace serve a release and wait until it does; the release's digest comes back.

    The canary that the ledger names is served with it.

    Raises:
        NoRelease: there is no such release.
        NotPromoted: it is not in production: promote it, or roll back to it.
        ClusterNotUp, ClusterUnreachable: there is no cluster, or it refused the config.
        NotDeployed: the application was not up in time.
    """
    registry = open_registry(workspace)
    found = resolve_production(registry, release_ref)
    beside = None if found.stopped else canary_leaf(registry, registry.get(RELEASE, found.digest).name)
    release, canary = found.digest, beside.statement.subject if beside else ""
    board, url = dashboard(workspace), find_serve_url(workspace)
    asked = ReleaseConfig(release=release, stopped=found.stopped, canary=canary, attempt=uuid4().hex)
    board.put_serve(render_config(read_config(config_path), asked, serve_url=url))
    wait_until_serving(asked, board=board, serve_url=url, timeout_s=timeout_s)
    return release


def find_serve_url(workspace: Workspace) -> str:
    """Where the application answers: recorded by ``signalbox up``, else $SIGNALBOX_URL."""
    if not workspace.cluster_path.exists() and (url := os.environ.get("SIGNALBOX_URL")):
        return url
    return environment(workspace)["SIGNALBOX_URL"]


def read_config(path: Path) -> dict[str, Any]:
    """A Serve config file.

    Raises:
        ConfigUnreadable: it is missing or no such file.
    """
    try:
        config = read_yaml(path)
    except FileUnusable as error:
        raise ConfigUnreadable(f"the Serve config is not one, {error}: name another with --serve-config") from error
    if not config.get("applications"):
        raise ConfigUnreadable(f"{path} has no applications: name a file like serve_configs/local.yaml")
    return config


def render_config(config: Mapping[str, Any], asked: ReleaseConfig, *, serve_url: str | None = None) -> dict[str, Any]:
    """The config with the release in every ``user_config`` and the HTTP options of the cluster that runs."""
    changed = asked.model_dump(exclude_defaults=True)
    applications = [_render_application(each, changed) for each in config["applications"]]
    rendered = {**config, "applications": applications}
    if serve_url:
        url = httpx.URL(serve_url)
        rendered["http_options"] = {**config.get("http_options", {}), "host": url.host, "port": url.port}
    return rendered


def wait_until_serving(asked: ReleaseConfig, *, board: Dashboard, serve_url: str, timeout_s: float) -> None:
    """Wait until every deployment is healthy and the gateway serves the release; a stop waits for the gateway alone.

    Raises:
        NotDeployed: the deployment failed, or took too long; the message says what was missing.
    """
    end_s, missing = time.monotonic() + timeout_s, "nothing was heard from Serve"
    while missing and time.monotonic() < end_s:
        missing = _what_is_missing(asked, board, serve_url)
        if missing:
            time.sleep(POLL_S)
    if missing:
        message = f"the application was not up after {timeout_s:.0f} s ({missing}): read the logs below the dashboard"
        raise NotDeployed(message)


def _what_is_missing(asked: ReleaseConfig, board: Dashboard, serve_url: str) -> str:
    """Why the application does not serve the release yet; empty when it does."""
    try:
        application = board.serve_status().get("applications", {}).get(APPLICATION, {})
        if not asked.stopped and (trouble := next(_troubles(application), "")):
            return trouble
        return _health_trouble(httpx.get(f"{serve_url}/healthz", timeout=5.0, trust_env=False), asked)
    except (httpx.TransportError, ClusterUnreachable) as error:
        return f"{type(error).__name__}: {error}"


def _troubles(application: Mapping[str, Any]) -> Iterator[str]:
    status = application.get("status", "NOT_STARTED")
    if status == "DEPLOY_FAILED":
        raise NotDeployed(f"Serve could not deploy the application: {application.get('message', '').strip()[-800:]}")
    if status != "RUNNING":
        yield f"application {status}"
    for name, deployment in application.get("deployments", {}).items():
        if deployment["status"] != "HEALTHY":
            yield f"deployment {name} {deployment['status']}: {deployment['message']}"


def _health_trouble(response: httpx.Response, asked: ReleaseConfig) -> str:
    try:
        body = response.json()
    except ValueError:
        return f"/healthz answered {response.status_code} without JSON"
    serves = body.get("release")
    if body.get("refused") == asked.release and body.get("attempt") == asked.attempt:
        raise NotDeployed(f"the gateway keeps what it serves, as the new release failed: {body['reason']}")
    if serves == asked.release and bool(body.get("stopped")) != asked.stopped:
        return f"the gateway serves {serves} {'with' if asked.stopped else 'without'} its models still"
    if serves != asked.release:
        return f"the gateway serves {serves or body.get('reason')}"
    return _canary_trouble(body, asked)


def _canary_trouble(body: Mapping[str, Any], asked: ReleaseConfig) -> str:
    """Why the gateway has not the canary that was asked for, or has one still."""
    if asked.canary and body.get("canary_refused") and body.get("attempt") == asked.attempt:
        raise NotDeployed(f"production serves, but its canary does not: {body['canary_refused']}")
    runs = (body.get("canary") or {}).get("release", "")
    return "" if runs == asked.canary else f"the canary of the gateway is {runs or 'not loaded yet'}"


def _render_application(application: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing but ``user_config`` may change here: whatever else differs makes Serve replace the replicas."""
    deployments = [_render_deployment(each, changed) for each in application.get("deployments", ())]
    return {**application, "deployments": deployments}


def _render_deployment(deployment: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    if "user_config" not in deployment:
        return dict(deployment)
    return {**deployment, "user_config": {**deployment["user_config"], **changed}}
