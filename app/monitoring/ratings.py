"""What callers say of answers as a signal: whether bad ratings have become more frequent than they were at first.

Method: the first ``feedback_reference`` ratings of a release give the share that is bad, with its Wilson interval; each
later rating is a bet that the share is above the interval's end (a mixture over all shares above it, uniformly; Ville's
inequality). The evidence is the bettor's gain, and may be looked at after every rating: when the share did not rise, it
ever passes ``1 / false_alarm_rate`` with at most that chance.

Guarantees: pure but for one query; no comment and no answer is read. Not guaranteed: that those who rate are like those
who do not; that somebody who rates the same answer again is counted where they rated first: the last word counts, and
when it was said.
"""

import math
from collections.abc import Sequence

from sqlalchemy import select

from app.core.database import Database
from app.core.schema import feedback
from app.core.statistics import wilson
from app.monitoring.drift import Figure
from app.monitoring.settings import MonitorSettings

FEEDBACK, EVIDENCE = "feedback", "log_evidence"
BAD_BELOW = 0.5
HIGHEST_SHARE = 0.99
"""Where nearly all ratings were bad from the first, none can be worse."""


def bad_ratings(database: Database, release: str) -> list[bool]:
    """Whether each rating of a release's answers is bad, in the order in which they were given."""
    rated = select(feedback.c.score).where(feedback.c.release == release)
    with database.read() as connection:
        scores = connection.execute(rated.order_by(feedback.c.updated_at, feedback.c.asked_by)).scalars()
        return [score < BAD_BELOW for score in scores]


def feedback_figure(bad: Sequence[bool], *, settings: MonitorSettings) -> Figure | None:
    """The evidence that ratings have become worse, as a monitor's figure; None while there is nothing to compare."""
    first, later = bad[: settings.feedback_reference], bad[settings.feedback_reference :]
    if not later:
        return None
    before = wilson(sum(first), len(first)).high
    if before >= HIGHEST_SHARE:
        return None
    value = evidence(sum(later), len(later), before)
    return Figure(FEEDBACK, FEEDBACK, EVIDENCE, value, math.log(1 / settings.false_alarm_rate))


def evidence(num_bad: int, num: int, share: float) -> float:
    """Logarithm of what a bet of 1 on "more than ``share`` are bad" has come to; below 0 it has lost."""
    from scipy.special import betaln
    from scipy.stats import beta

    a, b = num_bad + 1, num - num_bad + 1
    above = float(betaln(a, b) + beta.logsf(share, a, b)) - math.log1p(-share)
    return above - num_bad * math.log(share) - (num - num_bad) * math.log1p(-share)
