"""What is used of limits, in the workspace's database, shared by all gateways; and the rules that the limits come from.

Guarantees: ``take`` is one atomic conditional statement, so that what many gateways took together never exceeds the
limit; it needs no other transaction of ours, on PostgreSQL not even the ledger's lock. Not guaranteed: that an amount
is given back by a process that was killed; it counts as used until its period is over.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, ValidationError
from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from app.core.clock import timestamp
from app.core.database import Database
from app.core.errors import UsageError
from app.core.schema import limits, used
from app.core.settings import Settings, first_fault

ANONYMOUS = "anonymous"
NANO = 1_000_000_000
"""Dollars are counted in billionths: whole numbers add up exactly."""
CacheMode = Literal["off", "exact", "semantic"]


class BadLimit(UsageError):
    """A limit cannot be used, or the key or tag that it is for is not there; the message says which."""


class Rule(Settings):
    """What one key, one tag, or everybody without a key may do; None: no such limit."""

    requests_per_minute: NonNegativeInt | None = None
    """Requests of any kind in a minute of the clock."""

    tokens_per_minute: NonNegativeInt | None = None
    """Tokens, prompt and completion of every model asked, in a minute of the clock."""

    usd_per_day: NonNegativeFloat | None = None
    """Dollars in a day (UTC)."""

    usd_per_month: NonNegativeFloat | None = None
    """Dollars in a calendar month (UTC)."""

    usd_total: NonNegativeFloat | None = None
    """Dollars, ever."""

    models: tuple[str, ...] = ()
    """Names that may be asked for, as ``/v1/models`` lists them; empty: all."""

    role: Literal["all", "answer", "search"] = "all"
    """What may be called: completions (``answer``), searches and embeddings (``search``), or both."""

    tags: tuple[str, ...] = ()
    """Tags that every request of the key has; their limits count too."""

    cache: CacheMode = "off"
    """The answer cache that the key's requests use when they name none."""


@dataclass(frozen=True)
class Counter:
    """One limit in one period: how much, in requests, tokens or billionths of a dollar."""

    subject: str
    name: str
    period: str
    limit: int


@dataclass(frozen=True)
class Taken:
    """What was taken of a limit, and what is used or reserved of it now."""

    amount: int
    used: int


class Counters:
    """The tables of limits and of what is used of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rules(self) -> dict[str, Rule]:
        """The rules by subject; a row that cannot be read is a BadLimit."""
        with self._database.read() as connection:
            rows = connection.execute(select(limits.c.subject, limits.c.rule)).all()
        return {subject: _rule(subject, text) for subject, text in rows}

    def set_rule(self, subject: str, rule: Rule | None) -> None:
        """Put a rule in the place of the one that is there; None takes it away."""
        row = {"subject": subject, "updated_at": timestamp()}
        with self._database.write() as connection:
            connection.execute(delete(limits).where(limits.c.subject == subject))
            if rule is not None:
                text = json.dumps(rule.model_dump(exclude_defaults=True))
                connection.execute(limits.insert().values(**row, rule=text))

    def take(self, counter: Counter, *, least: int, most: int) -> Taken:
        """Take ``most``, else ``least``, of what is left of a limit, else nothing."""
        with self._database.engine.begin() as connection:
            for amount in (most, least):
                if (now := self._take(connection, counter, amount)) is not None:
                    return Taken(amount, now)
            return Taken(0, _used(connection, counter))

    def add(self, counter: Counter, amount: int) -> None:
        """Count an amount whatever the limit; a negative one gives back."""
        with self._database.engine.begin() as connection:
            connection.execute(self._upsert(counter, amount))

    def used(self, counters: Iterable[Counter]) -> dict[Counter, int]:
        """What is used or reserved of each limit."""
        with self._database.read() as connection:
            return {each: _used(connection, each) for each in counters}

    def forget(self, counter: Counter) -> None:
        """Remove the counts of earlier periods of this limit."""
        mine = (used.c.subject == counter.subject, used.c.name == counter.name, used.c.period < counter.period)
        with self._database.engine.begin() as connection:
            connection.execute(delete(used).where(*mine))

    def _take(self, connection: Connection, counter: Counter, amount: int) -> int | None:
        if amount > counter.limit:
            return None
        statement = self._upsert(counter, amount, where=used.c.amount + amount <= counter.limit)
        found: int | None = connection.execute(statement.returning(used.c.amount)).scalar()
        return found

    def _upsert(self, counter: Counter, amount: int, where: Any = None) -> Any:
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self._database.engine.dialect.name]
        row = {"subject": counter.subject, "name": counter.name, "period": counter.period, "amount": amount}
        keys, summed = [used.c.subject, used.c.name, used.c.period], {"amount": used.c.amount + amount}
        return insert(used).values(**row).on_conflict_do_update(index_elements=keys, set_=summed, where=where)


def key_subject(digest: str) -> str:
    """The subject of a key, by its digest."""
    return f"key:{digest}"


def tag_subject(tag: str) -> str:
    """The subject of a tag."""
    return f"tag:{tag}"


def _used(connection: Connection, counter: Counter) -> int:
    mine = (used.c.subject == counter.subject, used.c.name == counter.name, used.c.period == counter.period)
    return int(connection.execute(select(used.c.amount).where(*mine)).scalar() or 0)


def _rule(subject: str, text: str) -> Rule:
    try:
        return Rule(**json.loads(text))
    except ValidationError as error:
        raise BadLimit(f"the limits of {subject} cannot be read ({first_fault(error)}): set them anew") from error
    except (ValueError, TypeError) as error:
        raise BadLimit(f"the limits of {subject} are no JSON: set them anew with `signalbox access limit`") from error
