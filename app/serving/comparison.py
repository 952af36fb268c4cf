"""A canary beside production, from the request log: what users got of either in the same time, with intervals.

The time is that of the canary that runs, from its first leaf with no other step between, or of the one that ran last.
Shares and thumbs have Wilson's interval, means the bootstrap's, differences are the canary's less production's. A
**failure** is a status of 500 or more, among requests that were not refused (4xx); a quotation given where models were
asked is an **abstention**; the score is what callers said by `/v1/feedback`.

Guarantees: reads, changes nothing; both sides are of the same moments. Not guaranteed: that both sides' requests are
alike: those of named callers are theirs, and one conversation is on one side whole, so that intervals of few
conversations are too narrow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from app.core.clock import utc_now
from app.core.statistics import Interval, bootstrap_mean, difference, wilson
from app.governance.canary import NoCanary
from app.governance.moves import steps_of
from app.ledger.log import CANARY, MOVES, Leaf
from app.ledger.moves import Audience
from app.registry.versions import Registry
from app.registry.whole import whole_record
from app.serving.feedback import Scores, asker_of, last_answered
from app.serving.log import read_log
from app.serving.outcomes import routing_of
from app.serving.release import EXTRACTIVE, RELEASE

COLUMNS = ["request_id", "time", "release", "route", "status", "cost_usd", "latency_s", "response_json"]
FORMS = {"usd_per_1000": ".3g"}
"""How measures are written that three places after the point are too few for."""
FAILED, REFUSED, ANSWERED = 500, 400, 200
Row = Mapping[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Run:
    """A canary from its first leaf to its end; ``until`` is None while it runs."""

    canary: str
    production: str
    since: datetime
    until: datetime | None
    audience: Audience
    reason: str


def compare(registry: Registry, name: str) -> dict[str, Any]:
    """The canary that runs, or ran last, beside production, as JSON values.

    Raises:
        NoCanary: none ever ran.
    """
    run = last_run(registry, name)
    until, scores = run.until or utc_now(), Scores.read(registry)
    log = read_log(registry.workspace.requests_dir, since=run.since).select(COLUMNS).to_pylist()
    rows = [row for row in log if row["time"] <= until]
    sides = {side: [row for row in rows if row["release"] == getattr(run, side)] for side in ("production", "canary")}
    figures = {side: _figures(each, scores) for side, each in sides.items()}
    pairs = {
        measure: difference(before, figures["canary"][measure])
        for measure, before in figures["production"].items()
        if measure in figures["canary"]
    }
    return {
        "since": run.since.isoformat(),
        "until": run.until.isoformat() if run.until else None,
        **run.audience.to_json(),
        "reason": run.reason,
        **{side: _side(registry, getattr(run, side), sides[side], figures[side]) for side in sides},
        "difference": {measure: interval.to_dict() for measure, interval in pairs.items()},
    }


def last_run(registry: Registry, name: str) -> Run:
    """The last canary of a name; leaves that only change its share are of the same run.

    Raises:
        NoCanary: none ever ran.
        ArtifactMissing, ArtifactChanged: its record is lost, or is another than its leaf commits to.
    """
    steps = steps_of(registry, f"{RELEASE}/{name}")
    places = [place for place, leaf in enumerate(steps) if leaf.statement.kind == CANARY]
    if not places:
        raise NoCanary(f"no canary ever ran beside {name}: begin one with `signalbox canary RELEASE --share ...`")
    first = last = places[-1]
    while first and steps[first - 1].statement.kind == CANARY:
        first -= 1
    moved = [leaf.statement.subject for leaf in steps[:first] if leaf.statement.kind in MOVES]
    said = whole_record(CANARY, steps[last].statement.payload, registry)["facts"]["signed"]["body"]
    ended = _time(steps[last + 1]) if last + 1 < len(steps) else None
    when = (_time(steps[first]), ended)
    return Run(steps[last].statement.subject, moved[-1], *when, Audience.of(said), str(said["reason"]))


def lines(found: Mapping[str, Any]) -> list[str]:
    """A comparison for a terminal."""
    sides = ("production", "canary")
    head = [audience_of(found)]
    head += [f"{side:<11} {found[side]['name']}: {found[side]['num_requests']} requests" for side in sides]
    measures = dict.fromkeys(name for side in sides for name in found[side]["figures"])
    if measures:
        head.append(_line("", [*sides, "canary less production"]))
    for name in measures:
        form = FORMS.get(name, ".3f")
        shown = [_shown(found[side]["figures"].get(name), form) for side in sides]
        head.append(_line(name, [*shown, _shown(found["difference"].get(name), f"+{form}")]))
    return head


def _line(name: str, values: Sequence[str]) -> str:
    return f"{name:<20} {values[0]:<28} {values[1]:<28} {values[2]}"


def audience_of(found: Mapping[str, Any]) -> str:
    """Whose requests a canary answers, and when."""
    share = [f"{found['share']:g} of the requests"] if found["share"] else []
    keys = [f"all of {len(found['callers'])} API keys"] if found["callers"] else []
    until = f" until {found['until']}" if found["until"] else ""
    return f"{' and '.join([*share, *keys])} since {found['since']}{until}"


def _side(registry: Registry, digest: str, rows: Sequence[Row], figures: Mapping[str, Interval]) -> dict[str, Any]:
    shown = {measure: interval.to_dict() for measure, interval in figures.items()}
    return {
        "release": digest,
        "name": registry.get(RELEASE, digest).ref,
        "num_requests": len(rows),
        "figures": shown,
    }


def _figures(rows: Sequence[Row], scores: Scores) -> dict[str, Interval]:
    """Shares and means of one side; what there is nothing of is left out."""
    taken = [row for row in rows if not REFUSED <= row["status"] < FAILED]
    answered = [row for row in rows if row["status"] == ANSWERED]
    routed = [row for row in answered if (how := routing_of(row["response_json"])) and how.used]
    last = last_answered(rows)
    said = [scores.of(row["request_id"], asker_of(row["response_json"]), row["release"]) for row in last]
    found = {
        "failed": _share(taken, lambda row: row["status"] >= FAILED),
        "abstained": _share(routed, lambda row: row["route"] == EXTRACTIVE),
        "score": _score([each for each in said if each is not None]),
        "usd_per_1000": _mean([1000 * (row["cost_usd"] or 0.0) for row in answered]),
        "latency_s": _mean([row["latency_s"] for row in answered]),
    }
    return {measure: interval for measure, interval in found.items() if interval is not None}


def _share(rows: Sequence[Item], is_one: Callable[[Item], bool]) -> Interval | None:
    return wilson(sum(map(is_one, rows)), len(rows)) if rows else None


def _mean(values: Sequence[float]) -> Interval | None:
    return bootstrap_mean(values, num_resamples=500) if values else None


def _score(values: Sequence[float]) -> Interval | None:
    """Wilson's interval of thumbs: the bootstrap's has no width where all are alike."""
    return _share(values, bool) if {0.0, 1.0}.issuperset(values) else _mean(values)


def _shown(interval: Mapping[str, float] | None, form: str) -> str:
    if not interval:
        return "-"
    return f"{interval['value']:{form}} [{interval['low']:{form}}, {interval['high']:{form}}]"


def _time(leaf: Leaf) -> datetime:
    return datetime.fromisoformat(leaf.statement.time)
