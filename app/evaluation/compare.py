"""Two evaluations of one suite, question by question.

Guarantees: rows are paired by question id, and the interval is that of the paired differences (app.core.statistics).
"""

from app.core.errors import UsageError
from app.core.statistics import Interval, paired_bootstrap, paired_values
from app.evaluation.settings import EvaluationSettings
from app.governance.evidence import read_outcomes
from app.registry.versions import Registry, Version


class SuitesDiffer(UsageError):
    """The two evaluations are of different suites: evaluate both on the same one."""


def compare(
    before: Version, after: Version, *, metric: str = "exact_match", registry: Registry, settings: EvaluationSettings
) -> Interval:
    """Mean change of a metric from ``before`` to ``after``, with its interval.

    Raises:
        SuitesDiffer: they were run on different suites.
    """
    if before.manifest["inputs"]["suite"] != after.manifest["inputs"]["suite"]:
        raise SuitesDiffer(f"{before.ref} and {after.ref} are of different suites: evaluate both on the same one")
    first, second = (read_outcomes(version, metric, registry=registry) for version in (before, after))
    return paired_bootstrap(
        *paired_values(first, second),
        confidence=settings.confidence,
        num_resamples=settings.num_resamples,
        seed=settings.seed,
    )
