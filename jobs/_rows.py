"""What `jobs.train` learns from: rows that pass the data gate, or documents."""

from collections.abc import Sequence
from contextlib import suppress

from app.governance.stoplights import DATA, ask
from app.registry.versions import Registry, Version, VersionNotFound
from app.training.settings import Recipe
from jobs.common import Job

POLICIES = {"dpo": "preferences"}
"""What the data gate asks of rows that a recipe of its own learns from."""
ROWS_POLICY = "rows"
"""What it asks of all others that were imported: there are no chunks behind them."""


def find_rows(here: Job, refs: Sequence[str] | None, *, recipe: Recipe) -> list[Version]:
    """What was named, each passed by the data gate, the first example's data by default; `cpt` needs no gate.

    Raises:
        StopLight: the data gate is red.
    """
    cpt = recipe == "cpt"
    rows = [_find(here.registry, ref, cpt=cpt) for ref in refs or ["handbook" if cpt else "handbook-qa"]]
    for each in () if cpt else rows:
        policy = POLICIES.get(recipe, ROWS_POLICY) if each.kind == "dataset" else None
        ask(DATA, each, registry=here.registry, policy=policy)
    return rows


def _find(registry: Registry, ref: str, *, cpt: bool) -> Version:
    """Synthetic rows of that name, else a dataset's; for `cpt` the other way round."""
    kinds = ["synthetic", "dataset"]
    for kind in reversed(kinds) if cpt else kinds:
        with suppress(VersionNotFound):
            return registry.get(kind, ref)
    return registry.get(kinds[cpt], ref)
