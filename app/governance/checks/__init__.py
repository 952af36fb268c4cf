"""The checks that a policy may list, by subject: a small class each, that says what it measures, its unit and source.

Guarantees: a class in any module of this package is known to policies by its ``kind``; to add one, write it, nothing
else. Modules are found when the first policy is read. Not guaranteed: that a policy's thresholds are wise.
"""

from importlib import import_module
from pkgutil import iter_modules

from app.governance.checks.base import Check as Check
from app.governance.checks.people import Approvals as Approvals


def known_checks() -> dict[str, type[Check]]:
    """Every check of this package, and every other that was defined, by its ``kind``."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return dict(sorted(Check.known.items()))
