"""MLflow beside the registry: training runs, their curves and files, model versions, the `production` alias.

MLflow's tables lie in the workspace's own database, so that `mlflow ui` works on it; its files lie in the workspace's
``mlflow`` folder. Guarantees: a model version carries the digest of the registry's version, by which it is found again;
recording the same version twice changes nothing. Not guaranteed: that MLflow's records cannot be altered; the
ledger, not MLflow, is the evidence. MLflow is imported on first use (about 3 s), and its first migration takes longer:
:meth:`Tracker.begin_run` does both in the background.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.core.batches import batched
from app.core.workspace import Workspace
from app.registry.versions import PRODUCTION, Version

EXPERIMENT = "signalbox"
DIGEST_TAG = "signalbox.digest"
BUSY_TIMEOUT_S = 60
METRICS_PER_BATCH = 900
Curve = Sequence[Mapping[str, float]]


class Tracker:
    """MLflow on one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.root / "mlflow"
        self._uri = tracking_uri(workspace)

    def start_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open a run and return its id; nested parameters get dotted names."""
        client = self._client()
        run = client.create_run(_experiment(client, self._folder), run_name=name, tags=dict(tags))
        for key, value in flatten(params).items():
            client.log_param(run.info.run_id, key, value)
        return str(run.info.run_id)

    def begin_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> "Future[str]":
        """As :meth:`start_run`, in the background; the id comes with ``result()``."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        future = pool.submit(self.start_run, name, params=params, tags=tags)
        pool.shutdown(wait=False)
        return future

    def finish_run(self, run_id: str, *, curve: Curve, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the curve (each point has a `step`), the final figures and the files, and close the run."""
        client = self._client()
        for batch in batched(_as_metrics(curve, metrics), METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=batch)
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, status="FINISHED")

    def fail_run(self, run_id: str) -> None:
        """Close a run that did not reach its end."""
        self._client().set_terminated(run_id, status="FAILED")

    def run_params(self, run_id: str) -> dict[str, str]:
        """The parameters of a run, as MLflow keeps them: text."""
        return dict(self._client().get_run(run_id).data.params)

    def add_version(self, version: Version, *, run_id: str, source: Path) -> str:
        """Enter a model version under its name; MLflow's number for it comes back."""
        from mlflow.exceptions import MlflowException

        client = self._client()
        if found := self._number(client, version):
            return found
        try:
            client.create_registered_model(version.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {DIGEST_TAG: version.digest, "signalbox.ref": version.ref}
        made = client.create_model_version(version.name, source=str(source), run_id=run_id, tags=tags)
        return str(made.version)

    def set_production(self, name: str, version: Version) -> None:
        """Point MLflow's `production` alias of a model at a version; one that MLflow does not know is left alone."""
        client = self._client()
        if number := self._number(client, version):
            client.set_registered_model_alias(name, PRODUCTION, number)

    def production(self, name: str) -> str | None:
        """Digest of the version that MLflow's `production` alias points at, or None."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client().get_model_version_by_alias(name, PRODUCTION)
        except MlflowException:
            return None
        return str(found.tags[DIGEST_TAG])

    def _number(self, client: Any, version: Version) -> str | None:
        found = client.search_model_versions(f"name = '{version.name}'")
        return next((str(each.version) for each in found if each.tags.get(DIGEST_TAG) == version.digest), None)

    def _client(self) -> Any:
        return _connect(self._uri, self._folder)


def tracking_uri(workspace: Workspace) -> str:
    """What to give `mlflow ui --backend-store-uri`."""
    url = workspace.database_url
    return f"{url}?timeout={BUSY_TIMEOUT_S}" if url.startswith("sqlite") else url


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names; None is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


@lru_cache(maxsize=4)
def _connect(uri: str, folder: Path) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with _quiet():
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        _experiment(client, folder)
    return client


def _experiment(client: Any, folder: Path) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=folder.as_uri()))
    except MlflowException:
        return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)  # another process was faster


def _as_metrics(curve: Curve, metrics: Mapping[str, float]) -> list[Any]:
    import time

    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    points = [
        Metric(key, float(value), now_ms, int(point["step"]))
        for point in curve
        for key, value in point.items()
        if key != "step"
    ]
    return [*points, *(Metric(key, float(value), now_ms, 0) for key, value in metrics.items())]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's and Alembic's lines about migrations out of a terminal; warnings still come through."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    yield
