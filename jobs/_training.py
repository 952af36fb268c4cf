"""What `jobs.train` learns: rows that pass the data gate, at once or, as a sequence of tasks, one after another.

Guarantees: a sequence's matrix is printed, and where a task was refused the job ends with status 3.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import typer

from app.core.errors import UsageError
from app.governance.policy import load_policy
from app.governance.stoplights import DATA, ask
from app.loop_continual import Lesson, held_out_suite, learn_in_order, lines
from app.monitoring.actor import REFUSED_STATUS
from app.registry.versions import Registry, Version, VersionNotFound
from app.training.errors import NoStart
from app.training.settings import TrainSettings
from jobs.common import Job, report

ROWS_POLICY = "rows"
"""What the data gate asks of rows that were imported: there are no chunks behind them."""


class SuitesMissing(UsageError):
    """Name a suite for each task of the sequence, in the same order, or none to take each task's held-out rows."""


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


def learn_sequence(
    here: Job,
    name: str,
    base: Version | None,
    data: Sequence[Version],
    suites: Sequence[str],
    recipe: TrainSettings,
    *,
    policy: str | None,
    key: str | None,
    as_json: bool,
) -> NoReturn:
    """Learn the tasks in their order, each from the model before, print the matrix and end.

    Raises:
        NoStart: there is no model to go on from.
        SuitesMissing: there are suites, but not one for each task.
    """
    if base is None:
        raise NoStart("a sequence of tasks goes on from a model: name it with --base")
    if suites and len(suites) != len(data):
        raise SuitesMissing(f"{len(suites)} suites were named for {len(data)} tasks: name one for each, or none")
    asked = (
        [here.registry.get("suite", ref) for ref in suites]
        if suites
        else [held_out_suite(each, data[place:][1:], registry=here.registry) for place, each in enumerate(data)]
    )
    version = learn_in_order(
        name,
        base=base,
        lessons=[Lesson(*pair) for pair in zip(data, asked, strict=True)],
        recipe=recipe,
        policy=load_policy(policy or "continual"),
        registry=here.registry,
        settings=here.settings,
        trainer=here.signer(key),
    )
    if as_json:
        report(version, as_json=True)
    else:
        print("\n".join(lines(version)))
    raise typer.Exit(REFUSED_STATUS if version.facts["light"] == "red" else 0)
