"""Fixtures that more than one folder of tests uses.

Tests that need Ray are marked ``cluster``, share the one session-wide cluster and run after all others.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.registry.versions import Registry

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """No test reports home or touches the developer's own workspace."""
    os.environ.pop("SIGNALBOX_WORKSPACE", None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cluster tests last, everything else in the order of the files."""
    items.sort(key=lambda item: item.get_closest_marker("cluster") is not None)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace of this test's own."""
    return Workspace.find(tmp_path / "workspace")


@pytest.fixture
def registry(workspace: Workspace) -> Registry:
    """The registry of ``workspace``."""
    from app.registry.versions import open_registry

    return open_registry(workspace)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of this session's own: the URL of its database `postgres`."""
    from benchmarks import _postgresql

    found = _postgresql.binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed: install Debian's `postgresql` to run this test")
    with _postgresql.server(found, options=["fsync=off"]) as url:
        yield url


@pytest.fixture
def any_workspace(request: pytest.FixtureRequest, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace; marked ``on_both`` (below), a test meets one on SQLite and one on PostgreSQL."""
    if getattr(request, "param", "sqlite") == "postgresql":
        from benchmarks._postgresql import new_database

        url = new_database(request.getfixturevalue("postgresql"), f"test_{uuid.uuid4().hex}")
        monkeypatch.setenv("SIGNALBOX_DATABASE_URL", url)
    return workspace


on_both = pytest.mark.parametrize("any_workspace", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A promoted release with its workspace, its evidence pack and the log's public key; to be read only."""
    from tests.governance.pack.world import pack_scene

    return pack_scene(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets beside the checkout, or $SIGNALBOX_SHARED_DATA."""
    folder = Path(os.environ.get("SIGNALBOX_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no public data sets at {folder}; name their folder in SIGNALBOX_SHARED_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def cluster_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The workspace whose cluster is up for the whole session; for tests that submit jobs or deploy."""
    from app.core.cluster import ClusterSettings, down, up

    workspace = Workspace.find(tmp_path_factory.mktemp("cluster") / "workspace")
    up(workspace, settings=ClusterSettings())
    try:
        yield workspace
    finally:
        down(workspace)


@pytest.fixture(scope="session")
def cluster(cluster_workspace: Workspace) -> Iterator[Any]:
    """The module ``ray``, connected to the session's cluster."""
    import ray

    from app.core.cluster import connect

    with connect(cluster_workspace):
        yield ray
