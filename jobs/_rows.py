"""What `jobs.train` learns from: rows that pass the data gate, or documents."""

from collections.abc import Sequence
from contextlib import suppress

from app.governance.stoplights import DATA, ask
from app.registry.versions import Registry, Version, VersionNotFound
from jobs.common import Job

ROWS_POLICY = "rows"
"""What the data gate asks of rows that were imported: there are no chunks behind them."""


def find_rows(here: Job, refs: Sequence[str], *, cpt: bool) -> list[Version]:
    """What was named, each passed by the data gate; documents to learn by `cpt` need none.

    Raises:
        StopLight: the data gate is red.
    """
    rows = [_find(here.registry, ref, cpt=cpt) for ref in refs]
    for each in () if cpt else rows:
        ask(DATA, each, registry=here.registry, policy=ROWS_POLICY if each.kind == "dataset" else None)
    return rows


def _find(registry: Registry, ref: str, *, cpt: bool) -> Version:
    """Synthetic rows of that name, else a dataset's; for `cpt` the other way round."""
    kinds = ["synthetic", "dataset"]
    for kind in reversed(kinds) if cpt else kinds:
        with suppress(VersionNotFound):
            return registry.get(kind, ref)
    return registry.get(kinds[cpt], ref)
