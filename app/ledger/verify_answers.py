"""Hold the request log's receipts against the moves: nobody was answered by a release that might not answer then.

A release may answer from its first promotion on (batches go on with the one that they began with), and as a canary
until the step that ended it; a request counts by when it came in, so that one under way at the end is no fault.
Guarantees: named are an answer by a release that was never let in, and each answer that a canary gave outside its time
by more than ``MAX_SKEW_S``, since clocks differ and a gateway hears of the end within seconds. Not guaranteed: that the
gateway's clock told the truth.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from app.ledger.batches import read_receipts
from app.ledger.decisions import MAX_SKEW_S, read_time
from app.ledger.faults import Report
from app.ledger.log import CANARY, PROMOTION, REQUEST_BATCH, STEPS, Leaf
from app.ledger.moves import JUDGED

SKEW = timedelta(seconds=MAX_SKEW_S)
Span = tuple[datetime, datetime | None]


@dataclass
class Admitted:
    """When a release might answer: from its first promotion on, and in its canaries' times."""

    promoted: datetime | None = None
    canaries: list[Span] = field(default_factory=list)

    def allows(self, moment: datetime) -> bool:
        spans = [*self.canaries, *([(self.promoted, None)] if self.promoted else [])]
        return any(since - SKEW <= moment and (until is None or moment <= until + SKEW) for since, until in spans)

    @property
    def was_canary(self) -> bool:
        """Whether it has been a canary that ended."""
        return any(until for _, until in self.canaries)


def verify_answers(log: Sequence[Leaf], requests_dir: Path, report: Report) -> None:
    """Check who answered, by the leaves of the request log's parts and by their receipts."""
    _check_let_in(log, report)
    admitted = {release: when for release, when in _admitted(log).items() if when.was_canary}
    for leaf in log:
        statement = leaf.statement
        if statement.kind == REQUEST_BATCH and (named := admitted.keys() & set(statement.parents)):
            watched = {release: admitted[release] for release in named}
            for request, said in _late(requests_dir / statement.name, watched):
                report.add("late-answer", f"request log {statement.name}, request {request}", said)


def _check_let_in(log: Sequence[Leaf], report: Report) -> None:
    """Nobody was answered by a release that had neither been promoted nor been a canary."""
    let_in: set[str] = set()
    for leaf in log:
        statement = leaf.statement
        if statement.kind in JUDGED:
            let_in.add(statement.subject)
        for release in set(statement.parents) - let_in if statement.kind == REQUEST_BATCH else ():
            where = f"leaf {leaf.index}, request log {statement.name}"
            report.add("unpromoted-release", where, f"answers were given by {release}, which was never promoted")


def _admitted(log: Sequence[Leaf]) -> Mapping[str, Admitted]:
    """By release, when it might answer. Steps whose time cannot be read are named elsewhere."""
    found: dict[str, Admitted] = defaultdict(Admitted)
    running: dict[str, str] = {}
    for statement in (leaf.statement for leaf in log if leaf.statement.kind in STEPS):
        try:
            at = read_time(statement.time)
        except ValueError:
            continue
        if before := running.pop(statement.name, None):
            found[before].canaries[-1] = (found[before].canaries[-1][0], at)
        if statement.kind == CANARY:
            running[statement.name] = statement.subject
            found[statement.subject].canaries.append((at, None))
        if statement.kind == PROMOTION:
            found[statement.subject].promoted = found[statement.subject].promoted or at
    return found


def _late(part: Path, watched: Mapping[str, Admitted]) -> Iterator[tuple[str, str]]:
    """Request and sentence of each receipt of a part that a watched release gave outside its time.

    Receipts that are lost or changed are named where the part is recomputed.
    """
    try:
        receipts = read_receipts(part)
    except OSError:
        return
    for line in receipts:
        try:
            said = json.loads(line)
            release, at = said["release"], read_time(said["time"])
        except (ValueError, KeyError, TypeError):
            continue
        if release in watched and not watched[release].allows(at):
            what = f"{release} answered what came in at {said['time']}"
            yield said["request_id"], f"{what}, when it was neither a canary nor promoted"
