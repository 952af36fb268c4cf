"""Hold leaves against one another: their times and their parents, on which lineage and ``production --at`` rest.

Guarantees: a leaf whose time is out of the order of the log by more than ``CLOCK_TOLERANCE_S``, a parent that stands
later than its child, and a second leaf about a version, which could name other parents, are each named.
Not guaranteed: to see a time that is wrong by less, or one that every later leaf agrees with.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeAlias

from app.ledger.faults import Report
from app.ledger.log import REQUEST_BATCH, Leaf, Statement
from app.ledger.verify_tree import Row

CLOCK_TOLERANCE_S = 60.0
"""How far writers' clocks may lie apart, together with a wait for the database's write lock."""
TIME = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d(\.\d{1,6})?Z")


Log: TypeAlias = Sequence[tuple[int, Statement]]


def verify_lineage(rows: Iterable[Row] | Iterable[Leaf], report: Report) -> None:
    """Check times and parents of all leaves that could be read, in the order of the log."""
    log = [(row.index, row.statement) for row in rows if row.statement]
    _check_times(log, report)
    _check_parents(log, report)
    _check_again(log, report)


def is_back_dated(time: str, *, after: str) -> bool:
    """Whether a leaf of this time cannot stand after one of the other, both RFC 3339 in UTC."""
    if time >= after:
        return False
    return _moment(after) - _moment(time) > timedelta(seconds=CLOCK_TOLERANCE_S)


def _check_times(log: Log, report: Report) -> None:
    matches = TIME.fullmatch
    timed = [entry for entry in log if matches(entry[1].time)]
    for index, statement in log if len(timed) < len(log) else ():
        if not matches(statement.time):
            message = f"its time {statement.time!r} is no RFC 3339 time in UTC"
            report.add("bad-time", _name(index, statement), message)
    for index, statement, message in _out_of_order(timed):
        report.add("back-dated-leaf", _name(index, statement), message)


def _out_of_order(log: Log) -> Iterator[tuple[int, Statement, str]]:
    """The fewest leaves without which all others stand in the order of time, and what each says against it."""
    times = [statement.time for _, statement in log]
    if all(before <= after for before, after in pairwise(times)):
        return
    places = iter([*_longest_run(times), len(times)])
    following, before = next(places), ""
    for number, time in enumerate(times):
        if number == following:
            following, before = next(places), time
        elif before and is_back_dated(time, after=before):
            yield *log[number], f"its time {time} lies before {before} of the leaves before it: it was back-dated"
        elif following < len(times) and is_back_dated(times[following], after=time):
            yield *log[number], f"its time {time} lies after {times[following]} of the leaves after it"


def _longest_run(times: Sequence[str]) -> list[int]:
    """Positions of the longest non-decreasing subsequence, by patience sorting from the right in O(n log n).

    Of two that are equally long it is the one of later times, so that what was back-dated is left out.
    """
    rank = {time: -number for number, time in enumerate(sorted(set(times)))}
    tails: list[int] = []
    ends: list[int] = []
    following = [-1] * len(times)
    for number in range(len(times) - 1, -1, -1):
        place = bisect_right(tails, rank[times[number]])
        following[number] = ends[place - 1] if place else -1
        tails[place : place + 1] = [rank[times[number]]]
        ends[place : place + 1] = [number]
    kept = [ends[-1]] if ends else []
    while kept and following[kept[-1]] >= 0:
        kept.append(following[kept[-1]])
    return kept


def _check_parents(log: Log, report: Report) -> None:
    """What a leaf was made from stands before it, where it stands in the log at all."""
    first: dict[str, int] = {}
    for index, statement in log:
        first.setdefault(statement.subject, index)
    for index, statement in log:
        for parent in statement.parents:
            if first.get(parent, -1) >= index:
                message = f"it names {parent[:19]} as a parent, which stands only in leaf {first[parent]}"
                report.add("bad-parent", _name(index, statement), message)


def _check_again(log: Log, report: Report) -> None:
    """A version is published by one leaf, whose payload is its subject; any other of its kind forges an edge."""
    published: dict[tuple[str, str], int] = {}
    others = []
    for index, statement in log:
        if statement.payload != statement.subject or statement.kind == REQUEST_BATCH:
            others.append((index, statement))
        elif (first := published.setdefault((statement.kind, statement.subject), index)) != index:
            message = f"leaf {first} published this version already: that one's parents count"
            report.add("published-twice", _name(index, statement), message)
    for index, statement in others:
        if (statement.kind, statement.subject) in published:
            message = "it names parents of a version that another leaf publishes"
            report.add("forged-edge", _name(index, statement), message)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _name(index: int, statement: Statement) -> str:
    return f"leaf {index}, {statement.kind} {statement.name}".rstrip()
