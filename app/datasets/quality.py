"""The quality of many rows together: duplicates, outliers, languages, labels; and what is done about each finding.

Guarantees: a row that is dropped has a reject with its reason, a row that stays has its findings in a table; the report
counts both, and says which looks were not taken. The examinations of single rows come from elsewhere.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import numpy as np

from app.core.language import UNKNOWN
from app.core.resemblance import resembling
from app.datasets.examine import masked_row, texts_of
from app.datasets.labels import label_issues
from app.datasets.schema import reject
from app.datasets.settings import QualitySettings

Row = dict[str, Any]
REPORT, DROP, MASK = "report", "drop", "mask"
ALWAYS_REPORTED = ("other_answer", "language", "length", "exact_duplicate")
SCALE = 1.4826
"""Of a median deviation to a standard deviation, for a normal distribution."""


@dataclass
class Findings:
    """What was found, by row, and what is done about it."""

    settings: QualitySettings
    of_row: dict[int, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, place: int, finding: str, detail: str) -> None:
        """Note a finding in a row."""
        self.of_row[place].append({"finding": finding, "detail": detail, "action": self.action(finding)})

    def action(self, finding: str) -> str:
        """What is done about a finding: report, mask or drop."""
        names = {"near_duplicate": "near_duplicates", "label_issue": "label_issues"}
        return REPORT if finding in ALWAYS_REPORTED else str(getattr(self.settings, names.get(finding, finding)))

    def dropped(self, place: int) -> dict[str, str] | None:
        """The first finding for which a row is dropped."""
        return next((each for each in self.of_row[place] if each["action"] == DROP), None)


def same_text(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two rows exact duplicates: their texts, but for white space and the form of accents."""
    said = (" ".join(unicodedata.normalize("NFC", text).split()) for text in texts_of(row))
    return (row["form"], *said)


def drop_repeated(rows: Sequence[Row], places: Sequence[int]) -> tuple[list[int], list[dict[str, Any]]]:
    """Places of rows that repeat no earlier one, and a reject for each of the others."""
    first: dict[tuple[str, ...], int] = {}
    kept, rejects = [], []
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        earlier = rows[first.setdefault(same_text(row), number)]
        if earlier is row:
            kept.append(number)
        else:
            reason = f"repeats row {earlier['row_id']} of {earlier['source']}"
            rejects.append(reject(row["source"], place, reason, stage="exact_duplicate", row_id=row["row_id"]))
    return kept, rejects


def resembled(examined: Sequence[Mapping[str, Any]], settings: QualitySettings) -> list[tuple[int, int]]:
    """``(later, earlier)`` rows that are near-duplicates: as a whole, and without the context of their questions."""
    if not examined:
        return []
    sets = [[one[name] for one in examined] for name in ("runs", "own_runs")]
    return resembling(np.stack([one["signature"] for one in examined]), *sets, threshold=settings.similarity)


def find_all(
    rows: Sequence[Row],
    examined: Sequence[Mapping[str, Any]],
    resembled: Sequence[tuple[int, int]],
    *,
    settings: QualitySettings,
) -> Findings:
    """Every finding in every row.

    Args:
        examined: what ``Examiner`` says of each row.
        resembled: ``(later, earlier)`` rows that are near-duplicates.
    """
    findings = Findings(settings)
    for place, one in enumerate(examined):
        for each in one["findings"]:
            findings.add(place, each["finding"], each["detail"])
    for later, earlier in resembled:
        findings.add(later, "near_duplicate", f"resembles row {rows[earlier]['row_id']}")
    _other_answers(rows, examined, findings)
    _lengths(examined, findings)
    _languages(examined, findings)
    labelled = [place for place, row in enumerate(rows) if row["label"]]
    if settings.label_issues != "skip" and labelled:
        texts, labels = [rows[place]["question"] for place in labelled], [rows[place]["label"] for place in labelled]
        for place, likelier, chance in label_issues(texts, labels, min_rows=settings.min_label_rows):
            own = rows[labelled[place]]["label"]
            findings.add(labelled[place], "label_issue", f"{own!r}, but the others say {likelier!r} ({chance:.2f})")
    return findings


def apply(
    rows: Sequence[Row], examined: Sequence[Mapping[str, Any]], places: Sequence[int], findings: Findings
) -> tuple[list[Row], list[dict[str, Any]], list[dict[str, str]]]:
    """The rows that stay, masked where that was asked for; rejects; and the findings in the rows that stay."""
    kept: list[Row] = []
    kept_places: list[int] = []
    rejects: list[dict[str, Any]] = []
    noted: dict[str, list[dict[str, str]]] = {}
    for number, (row, one) in enumerate(zip(rows, examined, strict=True)):
        if found := findings.dropped(number):
            rejects.append(_dropped(row, places[number], found))
            continue
        new = masked_row(row, one["masked"])
        kept.append(new)
        kept_places.append(places[number])
        noted.setdefault(new["row_id"], findings.of_row[number])
    unlike, repeated = drop_repeated(kept, kept_places)
    table = [
        {"row_id": row_id, **each} for row_id in (kept[n]["row_id"] for n in unlike) for each in noted.get(row_id, ())
    ]
    return [kept[n] for n in unlike], [*rejects, *repeated], table


def as_finding(reject: Mapping[str, Any]) -> dict[str, str]:
    """What a row would be dropped for, as a finding in a row that stays."""
    return {"row_id": reject["row_id"], "finding": reject["stage"], "detail": reject["reason"], "action": REPORT}


def report(
    rows: Sequence[Row],
    findings: Sequence[Mapping[str, str]],
    rejects: Sequence[Mapping[str, Any]],
    *,
    examined: Sequence[Mapping[str, Any]],
    settings: QualitySettings,
    looked: Mapping[str, str],
) -> dict[str, Any]:
    """The quality report as JSON. Languages and lengths are those of rows that repeat no other.

    Args:
        looked: looks that were taken or not, each with how, or why not.
    """
    kinds = Counter(
        part.split(" ", 1)[1]
        for each in findings
        if each["finding"] == "personal"
        for part in each["detail"].split(", ")
    )
    by_finding = Counter(each["finding"] for each in findings)
    return {
        "num_read": len(rows) + len(rejects),
        "num_rows": len(rows),
        "num_rejected": len(rejects),
        "rejected_by_stage": dict(sorted(Counter(row["stage"] for row in rejects).items())),
        "rows_with_finding": dict(sorted(by_finding.items())),
        "actions": {name: Findings(settings).action(name) for name in sorted(by_finding)},
        "personal_by_kind": dict(sorted(kinds.items())),
        "languages": dict(Counter(one["language"] for one in examined).most_common()),
        "chars": _spread([one["num_chars"] for one in examined]),
        "splits": dict(sorted(Counter(row["split"] for row in rows if row["split"]).items())),
        "looks": dict(looked),
    }


def divided_resemblances(rows: Sequence[Row], findings: Sequence[Mapping[str, str]]) -> int:
    """Rows that resemble an earlier row of another split."""
    splits = {row["row_id"]: row["split"] for row in rows}
    named = (
        (each["row_id"], each["detail"].rsplit(" ", 1)[-1]) for each in findings if each["finding"] == "near_duplicate"
    )
    return sum(splits.get(earlier, splits[later]) != splits[later] for later, earlier in named)


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    if not lengths:
        return {}
    cuts = quantiles([*lengths, *lengths], n=20, method="inclusive")
    return {
        "min": min(lengths),
        "p5": round(cuts[0]),
        "median": round(median(lengths)),
        "p95": round(cuts[-1]),
        "max": max(lengths),
    }


def _dropped(row: Row, place: int, found: Mapping[str, str]) -> dict[str, Any]:
    return reject(row["source"], place, found["detail"], stage=found["finding"], row_id=row["row_id"])


def _other_answers(rows: Sequence[Row], examined: Sequence[Mapping[str, Any]], findings: Findings) -> None:
    """Rows that ask what an earlier row asks, after the same turns, and answer it otherwise."""
    first: dict[str, int] = {}
    for place, (row, one) in enumerate(zip(rows, examined, strict=True)):
        if not one["asked"] or row["label"]:
            continue
        earlier = first.setdefault(one["asked"], place)
        if examined[earlier]["said"] != one["said"]:
            findings.add(place, "other_answer", f"asks what row {rows[earlier]['row_id']} asks")


def _lengths(examined: Sequence[Mapping[str, Any]], findings: Findings) -> None:
    """Rows whose log length is far from the median, in units of the scaled median deviation."""
    logs = [math.log1p(one["num_chars"]) for one in examined]
    middle = median(logs) if logs else 0.0
    spread = SCALE * median([abs(each - middle) for each in logs]) if logs else 0.0
    for place, each in enumerate(logs):
        away = (each - middle) / spread if spread else 0.0
        if abs(away) > findings.settings.max_length_deviations:
            findings.add(place, "length", f"{examined[place]['num_chars']} characters, {away:+.1f} deviations")


def _languages(examined: Sequence[Mapping[str, Any]], findings: Findings) -> None:
    """Rows in another language than most."""
    counts = Counter(one["language"] for one in examined if one["language"] != UNKNOWN)
    most = counts.most_common(1)[0][0] if counts else UNKNOWN
    for place, one in enumerate(examined):
        if one["language"] not in (most, UNKNOWN):
            findings.add(place, "language", f"{one['language']}, most rows are {most}")
