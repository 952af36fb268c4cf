"""Whether there are enough rows, and whether each of them is whole."""

import math
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from app.core.text import broken_characters, words
from app.governance.checks.base import Check, OverRows, Share, ShareOfRows
from app.governance.evidence import Evidence, EvidenceMissing
from app.governance.findings import Finding, Light, passes


class MinRows(Check):
    """Enough rows to learn from. Unit: rows, as the artifact's facts state them."""

    kind: Literal["min_rows"] = "min_rows"

    fact: str = "num_rows"
    """Which of the artifact's facts counts the rows."""

    minimum: PositiveInt
    """Fewest rows allowed."""

    attention: PositiveInt | None = None
    """Fewer than these are amber: a person should look. Null: none are."""

    def judge(self, evidence: Evidence) -> Finding:
        rows = int(evidence.fact(self.fact))
        light = passes(rows >= self.minimum)
        if light == "green" and self.attention and rows < self.attention:
            light = "amber"
        reason = f"{rows} {self.fact}, at least {self.minimum} are asked for"
        return Finding(light, reason, rows, self.minimum, (evidence.artifact.digest,))


class MaxRejectedShare(Check):
    """Not too much was rejected on the way. Unit: share of everything that was read."""

    kind: Literal["max_rejected_share"] = "max_rejected_share"

    accepted: str = "num_rows"
    """Fact that counts what was kept."""

    rejected: str = "num_rejected"
    """Fact that counts what was rejected."""

    maximum: Share
    """Largest share allowed."""

    def judge(self, evidence: Evidence) -> Finding:
        accepted, rejected = int(evidence.fact(self.accepted)), int(evidence.fact(self.rejected))
        share = rejected / (accepted + rejected) if accepted + rejected else 1.0
        light = passes(share <= self.maximum)
        reason = f"{rejected} of {accepted + rejected} rejected ({share:.1%}), at most {self.maximum:.1%} may be"
        return Finding(light, reason, share, self.maximum, (evidence.artifact.digest,))


class MissingValues(ShareOfRows):
    """Rows with nothing in a column that must hold something. Unit: share of the rows."""

    kind: Literal["missing_values"] = "missing_values"

    columns: tuple[str, ...] = ("question", "answer")
    """Columns that must hold something: not null, not blank, not an empty list."""

    def judge(self, evidence: Evidence) -> Finding:
        rows, inputs = self.rows(evidence)
        num = sum(any(_is_blank(value) for value in values) for values in self.values(rows, self.columns))
        return self.counted(num, len(rows), f"lack {' or '.join(self.columns)}", inputs)


class MalformedRows(ShareOfRows):
    """Rows with values of another type, broken characters, or more text than allowed. Unit: share of the rows.

    Broken are control characters, unpaired surrogates and U+FFFD, which decoders put in the place of bytes that they
    cannot read. Source: the Unicode Standard, sections 5.22 and 23.
    """

    kind: Literal["malformed_rows"] = "malformed_rows"

    columns: Mapping[str, Literal["text", "number", "list"]] = {"question": "text", "answer": "text"}
    """What the columns hold; a missing value is ``missing_values``' business."""

    max_chars: PositiveInt = 20_000
    """Longest text."""

    def judge(self, evidence: Evidence) -> Finding:
        rows, inputs = self.rows(evidence)
        types = tuple(self.columns.values())
        found = self.values(rows, tuple(self.columns))
        num = sum(any(not self._fits(*pair) for pair in zip(values, types, strict=True)) for values in found)
        return self.counted(num, len(rows), f"hold something else than asked in {' or '.join(self.columns)}", inputs)

    def _fits(self, value: object, wanted: str) -> bool:
        if value is None:
            return True
        if wanted == "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if wanted == "list":
            return isinstance(value, list)
        return isinstance(value, str) and len(value) <= self.max_chars and not broken_characters(value)


class DuplicateShare(ShareOfRows):
    """Rows that say the same as an earlier one, letters and digits compared. Unit: share of the rows.

    Source: Lee et al., Deduplicating training data makes language models better (ACL 2022).
    """

    kind: Literal["duplicate_share"] = "duplicate_share"

    columns: tuple[str, ...] = ("question", "answer")
    """What makes two rows the same."""

    def judge(self, evidence: Evidence) -> Finding:
        rows, inputs = self.rows(evidence)
        distinct = {tuple(tuple(words(str(value))) for value in values) for values in self.values(rows, self.columns)}
        return self.counted(len(rows) - len(distinct), len(rows), "repeat an earlier one", inputs)


class LabelBalance(OverRows):
    """No label of classification rows is drowned by the others. Unit: Pielou's evenness, 0 (one label) to 1 (equal).

    The entropy of the labels over that of equally frequent ones. Source: Pielou (Journal of Theoretical Biology, 1966).
    """

    kind: Literal["label_balance"] = "label_balance"

    column: str = "label"
    """Column that holds the label."""

    min_evenness: Share = 0.6
    """Least evenness; less is red."""

    max_share: Share = 1.0
    """Largest share of one label; more is red."""

    num_labels: PositiveInt = 2
    """Fewest different labels."""

    def judge(self, evidence: Evidence) -> Finding:
        rows, inputs = self.rows(evidence)
        counts = Counter(str(values[0]) for values in self.values(rows, (self.column,)))
        label, most = counts.most_common(1)[0]
        evenness = _evenness(list(counts.values()))
        holds = evenness >= self.min_evenness and most / len(rows) <= self.max_share
        reason = f"{len(counts)} labels of evenness {evenness:.2f}, {label!r} is {most / len(rows):.1%} of the rows"
        return Finding(passes(holds and len(counts) >= self.num_labels), reason, evenness, self.min_evenness, inputs)


class Freshness(OverRows):
    """The sources are not too old when they are judged. Unit: days, from a version's leaf or a column to the judging.

    The moment of judging is part of the recorded evidence; no clock is looked at.
    """

    kind: Literal["freshness"] = "freshness"

    of: str | None = "dataset"
    """Kind of the ancestors that count; null: the artifact itself."""

    column: str | None = None
    """Column of the table that holds RFC 3339 times or timestamps; null: when the versions' leaves were written."""

    which: Literal["newest", "oldest"] = "newest"
    """Whether the newest or the oldest of them counts."""

    max_age_days: PositiveFloat
    """Largest age; more is red."""

    def judge(self, evidence: Evidence) -> Finding:
        moments, inputs = self._moments(evidence)
        moment = max(moments) if self.which == "newest" else min(moments)
        age_days = (_moment(evidence.at) - moment).total_seconds() / 86_400
        light: Light = "red" if age_days > self.max_age_days or age_days < 0 else "green"
        reason = f"the {self.which} source is {age_days:.1f} days old, at most {self.max_age_days:g} are allowed"
        return Finding(light, reason, age_days, self.max_age_days, inputs)

    def _moments(self, evidence: Evidence) -> tuple[list[datetime], tuple[str, ...]]:
        if self.column:
            rows, inputs = self.rows(evidence)
            return [_moment(values[0]) for values in self.values(rows, (self.column,))], inputs
        versions = evidence.behind(self.of) if self.of else [evidence.artifact]
        digests = tuple(version.digest for version in versions)
        return [_moment(evidence.ancestors[0][digest].statement.time) for digest in digests], digests


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value == []


def _evenness(counts: list[int]) -> float:
    if len(counts) < 2:
        return 0.0
    shares = [count / sum(counts) for count in counts]
    return -sum(share * math.log(share) for share in shares) / math.log(len(counts))


def _moment(value: object) -> datetime:
    """An aware moment from a timestamp or a text; a naive one counts as UTC."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        raise EvidenceMissing(f"{value!r} is no time: write it as RFC 3339, such as 2026-11-22T21:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
