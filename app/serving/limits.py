"""Limits and budgets of a request: who asks, what that key and its tags may do, what is left, and what it came to.

A request is counted against its key (or ``anonymous``) and against every tag that it has: those of the key's rule, and
those that the request names. Before it runs, an estimate is reserved; afterwards it is settled to what it used; how far
a limit may be overshot says ``app.serving.meter``. Minutes are those of the clock, so that two bursts around a full
minute may together reach twice the rate. A changed rule counts within ``limits_refresh_s``; where the rules were never
read, nobody is let in.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from app.core.clock import utc_now
from app.serving.access import AccessList
from app.serving.counters import ANONYMOUS, NANO, CacheMode, Counter, Counters, Rule, key_subject, tag_subject
from app.serving.errors import ApiError, forbidden, no_key, quota, rate_limited, too_large_for, unavailable
from app.serving.meter import Meter, Spent

REQUESTS, TOKENS, USD = "requests", "tokens", "usd"
LIMITS = {
    "requests_per_minute": (REQUESTS, "minute"),
    "tokens_per_minute": (TOKENS, "minute"),
    "usd_per_day": (USD, "day"),
    "usd_per_month": (USD, "month"),
    "usd_total": (USD, "total"),
}
PERIODS = {"minute": "%Y-%m-%dT%H:%MZ", "day": "%Y-%m-%d", "month": "%Y-%m", "total": ""}
Action = Literal["answer", "search"]


@dataclass(frozen=True)
class Amounts:
    """What a request needs or used."""

    tokens: int = 0
    usd: float = 0.0

    def of(self, counter: Counter) -> int:
        """In the units of a counter; a request is counted once, when it is admitted."""
        unit = LIMITS[counter.name][0]
        return {REQUESTS: 0, TOKENS: self.tokens, USD: math.ceil(self.usd * NANO)}[unit]


@dataclass(frozen=True)
class Caller:
    """Who asks, and under which rules."""

    name: str = ANONYMOUS
    labels: frozenset[str] = frozenset()
    subject: str = ANONYMOUS
    rule: Rule = field(default_factory=Rule)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """By subject: the caller's own, and those of the tags."""

    @property
    def cache(self) -> CacheMode:
        """The cache that the rule names."""
        return self.rule.cache

    def check(self, action: Action, model: str | None = None, also: Iterable[str] = ()) -> None:
        """Refuse what the caller's rules do not allow.

        Args:
            model: the name that is asked for; ``also``: other names of the same model.

        Raises:
            ApiError: 403.
        """
        for subject, rule in self.rules.items():
            if rule.role not in ("all", action):
                raise forbidden(
                    f"{_spoken(subject, self.name)} may {_does(rule.role)} only: ask for a key that may more"
                )
            if model is not None and rule.models and not {model, *also} & set(rule.models):
                said = f"{_spoken(subject, self.name)} may not ask for the model {model!r}"
                raise forbidden(f"{said}: ask for one of {', '.join(rule.models)}", param="model")


class Reservation:
    """What one request holds of its limits until ``settle``."""

    def __init__(self, meter: Meter, counters: Sequence[Counter], *, caller: str = ANONYMOUS) -> None:
        self._meter, self._counters, self._caller = meter, counters, caller
        self._held = Amounts()
        self._settled = False

    @property
    def headers(self) -> dict[str, str]:
        """``x-ratelimit-*`` of the tightest limits; reads no database."""
        found: dict[str, str] = {}
        for unit in (REQUESTS, TOKENS):
            mine = [each for each in self._counters if LIMITS[each.name][0] == unit]
            if mine:
                tightest = min(mine, key=self._meter.remaining)
                found[f"x-ratelimit-limit-{unit}"] = str(tightest.limit)
                found[f"x-ratelimit-remaining-{unit}"] = str(self._meter.remaining(tightest))
                found[f"x-ratelimit-reset-{unit}"] = f"{seconds_left(tightest)}s"
        return found

    async def enter(self) -> None:
        """Count the request.

        Raises:
            ApiError: 429, there were too many; 503, they cannot be counted.
        """
        await self._reserve({each: 1 for each in self._counters if LIMITS[each.name][0] == REQUESTS})

    async def extend(self, more: Amounts) -> None:
        """Reserve more.

        Raises:
            ApiError: 429, a limit does not hold it; 503, it cannot be counted.
        """
        await self._reserve({each: amount for each in self._counters if (amount := more.of(each))})
        self._held = Amounts(self._held.tokens + more.tokens, self._held.usd + more.usd)

    def settle(self, spent: Amounts) -> None:
        """Give back what was not used, or charge what was used above; once."""
        if not self._settled:
            self._settled = True
            self._meter.give_back({each: self._held.of(each) - spent.of(each) for each in self._counters})

    async def _reserve(self, amounts: Mapping[Counter, int]) -> None:
        try:
            await self._meter.reserve(amounts)
        except Spent as error:
            raise self._refusal(error) from error
        except SQLAlchemyError as error:
            said = "the limits cannot be counted, since the database does not answer: try again soon"
            raise unavailable(said, code="limits_unavailable") from error

    def _refusal(self, error: Spent) -> ApiError:
        counter, who = error.counter, _spoken(error.counter.subject, self._caller)
        unit, period = LIMITS[counter.name]
        if unit == USD:
            said = f"{who} has spent its budget of {counter.limit / NANO:g} dollars ({_per(period)})"
            refused = quota(f"{said}: {_when(counter)}", retry_after_s=seconds_left(counter))
        else:
            said = f"{who} reached its limit of {counter.limit} {unit} per minute"
            needs = f", and this request may need {error.amount}" if unit == TOKENS else ""
            if error.amount > counter.limit:
                raise too_large_for(f"{who} may use {counter.limit} {unit} per minute{needs}") from error
            refused = rate_limited(f"{said}{needs}: {_when(counter)}", retry_after_s=seconds_left(counter) or 1)
        refused.headers = {**self.headers, **refused.headers}
        return refused


class Limits:
    """The rules of a workspace, as requests are held against them."""

    def __init__(
        self,
        counters: Counters,
        access: AccessList,
        *,
        refresh_s: float,
        require_key: bool = False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._counters, self._access = counters, access
        self._refresh_s, self._require_key, self._now = refresh_s, require_key, now
        self._rules, self._read_s = dict[str, Rule](), -math.inf
        self._reading: asyncio.Task[None] | None = None
        self.meter = Meter(counters)

    async def caller(self, authorization: str | None, tags: Iterable[str] = ()) -> Caller:
        """Who shows this header, with the rules for it and for the tags of its request.

        Raises:
            ApiError: 401, a key is required and none that was granted is shown.
        """
        rules, found = await self._current(), self._access.find(authorization)
        if found is None and self._require_key:
            raise no_key()
        digest, grant = found or ("", None)
        subject = key_subject(digest) if grant else ANONYMOUS
        rule = rules.get(subject, Rule())
        subjects = [subject, *(tag_subject(tag) for tag in dict.fromkeys((*rule.tags, *tags)))]
        return Caller(
            name=grant.name if grant else ANONYMOUS,
            labels=frozenset(grant.labels) if grant else frozenset(),
            subject=subject,
            rule=rule,
            rules={each: rules[each] for each in subjects if each in rules},
        )

    def reservation(self, caller: Caller) -> Reservation:
        """An empty reservation for a request of this caller."""
        counters = counters_of(caller.rules, self._now())
        return Reservation(self.meter, counters, caller=caller.name)

    async def _current(self) -> Mapping[str, Rule]:
        """The rules as read last; one request at a time reads them anew, and before the first ones everybody waits."""
        is_old = time.monotonic() - self._read_s >= self._refresh_s
        if self._read_s == -math.inf or (is_old and self._reading is None):
            self._reading = self._reading or asyncio.ensure_future(self._read())
            try:
                await asyncio.shield(self._reading)
            except SQLAlchemyError as error:
                said = "the limits cannot be read, since the database does not answer: try again soon"
                raise unavailable(said, code="limits_unavailable") from error
        return self._rules

    async def _read(self) -> None:
        try:
            self._rules = await asyncio.to_thread(self._counters.rules)
            self._read_s = time.monotonic()
        finally:
            self._reading = None


def counters_of(rules: Mapping[str, Rule], now: datetime) -> list[Counter]:
    """Every limit of some rules in the period of a moment."""
    found = []
    for subject, rule in rules.items():
        for name, (unit, period) in LIMITS.items():
            limit = getattr(rule, name)
            if limit is not None:
                whole = round(limit * NANO) if unit == USD else limit
                found.append(Counter(subject, name, now.strftime(PERIODS[period]), whole))
    return found


def seconds_left(counter: Counter, now: Callable[[], datetime] = utc_now) -> int:
    """Whole seconds until the counter's period is over, at least 1; 0 when it never is."""
    moment, period = now(), LIMITS[counter.name][1]
    if period == "total":
        return 0
    if period == "minute":
        return 60 - moment.second
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    while period == "month" and midnight.day != 1:
        midnight += timedelta(days=1)
    return math.ceil((midnight - moment).total_seconds())


def _spoken(subject: str, name: str) -> str:
    kind, _, rest = subject.partition(":")
    return {"tag": f"the tag {rest!r}", "key": f"the key of {name!r}"}.get(kind, "whoever shows no granted key")


def _does(role: str) -> str:
    return {"answer": "ask for completions", "search": "search and embed"}[role]


def _per(period: str) -> str:
    return "in all" if period == "total" else f"per {period}"


def _when(counter: Counter) -> str:
    left_s = seconds_left(counter)
    return f"ask again in {left_s} s" if left_s else "have it raised with `signalbox access limit`"
