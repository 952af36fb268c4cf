"""Tasks that `jobs.train --continual` learns one after another: by which suites, and what came of it.

Guarantees: the matrix is printed, and where a task was refused the job ends with status 3.
"""

from collections.abc import Sequence
from typing import NoReturn

import typer

from app.core.errors import UsageError
from app.governance.policy import load_policy
from app.loop_continual import Lesson, held_out_suite, learn_in_order, lines
from app.monitoring.actor import REFUSED_STATUS
from app.registry.versions import Version
from app.training.errors import NoStart
from app.training.settings import TrainSettings
from jobs.common import Job, report


class SuitesMissing(UsageError):
    """Name a suite for each task of the sequence, in the same order, or none to take each task's held-out rows."""


class EstimateOfOne(UsageError):
    """An estimate is of one run: leave out --continual, and name the rows of one task."""


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
    estimate: bool,
) -> NoReturn:
    """Learn the tasks in their order, each from the model before, print the matrix and end.

    Raises:
        EstimateOfOne: an estimate was asked for.
        NoStart: there is no model to go on from.
        SuitesMissing: there are suites, but not one for each task.
    """
    if estimate:
        raise EstimateOfOne("--estimate is of one run: leave out --continual, and name the rows of one task")
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
