"""Whether a policy asks less than another of the same name, so that a name cannot come to mean less unnoticed.

Guarantees: a check that is gone, a threshold that is looser, and any other field that is different are each named.
Not guaranteed: that what is different is looser; whoever wants it gives the policy another name, which people see.
"""

from collections.abc import Iterator
from typing import Any

from app.governance.checks import Check
from app.governance.policy import Policy

IDENTITY = ("suite", "gate", "label", "of", "table", "metric", "fact", "columns")
"""Fields that tell two checks of one kind apart."""
FLOORS = ("minimum", "threshold", "required", "confidence", "num_labels", "num_resamples")
CEILINGS = ("margin", "budget", "max_share", "max_chars", "max_age_days")
LISTS = ("sources", "kinds", "phrases")
"""Fields where to ask for more of it, for less of it, and to name more, is stricter; ``min_...`` are floors too, and
``maximum`` and ``maximum_...`` ceilings."""


def asks_less(new: Policy, old: Policy) -> list[str]:
    """A sentence for each thing that ``old`` asks for and ``new`` does not, or not as strictly."""
    return [line for check in old.checks for line in _compared(check, new)]


def _compared(old: Check, policy: Policy) -> Iterator[str]:
    same = [check for check in policy.checks if check.kind == old.kind]
    if not same:
        yield f"{old.kind} is no longer asked"
        return
    before = old.model_dump(mode="json")
    after = min((check.model_dump(mode="json") for check in same), key=lambda each: _distance(before, each))
    for field, value in before.items():
        if not _holds(field, value, after[field]):
            yield f"{old.kind}.{field} was {value!r} and is {after[field]!r}"


def _distance(before: dict[str, Any], after: dict[str, Any]) -> tuple[int, int]:
    """How many identifying fields differ, then how many others are looser."""
    looser = sum(not _holds(field, value, after[field]) for field, value in before.items())
    return sum(before.get(field) != after.get(field) for field in IDENTITY), looser


def _holds(field: str, before: Any, after: Any) -> bool:
    """Whether a field asks for as much as it did."""
    if before == after:
        return True
    if before is None or after is None:
        return False
    if field in FLOORS or field.startswith("min_"):
        return bool(after >= before)
    if field in CEILINGS or field.startswith("maximum"):
        return bool(after <= before)
    return field in LISTS and set(before) <= set(after)
