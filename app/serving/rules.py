"""Setting limits from a command: for a key by its holder's name, for a tag, for whoever shows no key.

A gateway that runs takes a change over by itself. Limits are not in the ledger: who can write the database can change
them, and what they let through stands in the request log.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.core.clock import utc_now
from app.core.settings import first_fault
from app.ledger.access_book import read_grants
from app.registry.versions import Registry
from app.serving.access import NAME
from app.serving.counters import ANONYMOUS, NANO, BadLimit, Counter, Counters, Rule, key_subject, tag_subject
from app.serving.limits import LIMITS, USD, counters_of


def subject_of(registry: Registry, *, name: str = "", tag: str = "", anonymous: bool = False) -> str:
    """The subject of a key's holder, of a tag, or of everybody without a key; exactly one is given.

    Raises:
        BadLimit: none or several are given, or nobody holds a key of that name.
    """
    if sum(map(bool, (name, tag, anonymous))) != 1:
        raise BadLimit("say whose limit it is: give the name of a key's holder, or --tag, or --anonymous")
    if anonymous:
        return ANONYMOUS
    if tag:
        if not NAME.fullmatch(tag):
            raise BadLimit(f"{tag!r} is no tag: use up to 100 letters, digits, dots, dashes and underscores")
        return tag_subject(tag)
    found = [digest for digest, grant in read_grants(registry.workspace.access_path).items() if grant.name == name]
    if not found:
        raise BadLimit(f"there is no key named {name!r}: `signalbox access list` shows them")
    return key_subject(found[0])


def change_rule(registry: Registry, subject: str, changes: Mapping[str, Any]) -> Rule:
    """Set some limits of a subject and leave the others as they are.

    Raises:
        BadLimit: a limit cannot be used.
    """
    counters = Counters(registry.database)
    before = counters.rules().get(subject, Rule())
    try:
        rule = Rule(**{**before.model_dump(), **changes})
    except ValidationError as error:
        raise BadLimit(f"this limit cannot be set ({first_fault(error)}): give a number from 0 on") from error
    counters.set_rule(subject, rule)
    return rule


def clear_rule(registry: Registry, subject: str) -> None:
    """Take all limits of a subject away."""
    Counters(registry.database).set_rule(subject, None)


def report(registry: Registry) -> list[dict[str, Any]]:
    """Every rule, with what is used or reserved of each limit in this minute, day, month and ever."""
    counters = Counters(registry.database)
    rules = counters.rules()
    used = counters.used(counters_of(rules, utc_now()))
    names = {key_subject(digest): grant.name for digest, grant in read_grants(registry.workspace.access_path).items()}
    return [_entry(subject, rule, names.get(subject, ""), used) for subject, rule in sorted(rules.items())]


def _entry(subject: str, rule: Rule, name: str, used: Mapping[Counter, int]) -> dict[str, Any]:
    mine = {counter.name: amount for counter, amount in used.items() if counter.subject == subject}
    spent = {each: amount / NANO if LIMITS[each][0] == USD else amount for each, amount in mine.items()}
    return {"subject": subject, "name": name, "rule": rule.model_dump(exclude_defaults=True), "used": spent}
