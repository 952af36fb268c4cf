"""One import of rows in a process of its own: ``python -m benchmarks._dataset_import ROWS WORKSPACE [CLUSTER]``.

Prints rows a second of wall-clock time. Loading modules and recognisers, reading and publishing count; connecting to
the cluster of the workspace ``CLUSTER``, where one is named, does not.
"""

import sys
import time
from contextlib import nullcontext
from pathlib import Path

from app.core.workspace import Workspace


def main(rows: Path, workspace: Path, cluster: Path | None) -> None:
    """Import the rows into the workspace."""
    from app.core.cluster import connect

    with connect(Workspace.find(cluster), log_to_driver=False) if cluster else nullcontext():
        started_s = time.perf_counter()
        from app.datasets.curate import Curation, import_rows
        from app.datasets.pipeline import here, on_cluster
        from app.datasets.settings import DatasetSettings
        from app.registry.versions import open_registry

        registry = open_registry(Workspace.find(workspace))
        version = import_rows(rows, "rows", by=Curation(registry, DatasetSettings(), on_cluster if cluster else here))
        print(version.facts["num_rows"] / (time.perf_counter() - started_s))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)  # type: ignore[call-arg]
