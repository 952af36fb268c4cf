"""What callers said of answers, for people and for training: how they rated, and the right answers that they gave.

Guarantees: reads, changes nothing; a row needs a request that is still in the log, of the caller who corrected it, and
a right answer that differs from the one given. Not guaranteed: that what a caller calls right is right; ``jobs.curate``
reports on the rows, and a gate judges what was trained on them.
"""

import json
from typing import Any

from sqlalchemy import func, select

from app.core.schema import feedback
from app.evaluation.metrics import exact_match
from app.registry.versions import Registry, VersionNotFound
from app.serving.errors import ApiError
from app.serving.feedback import Scores, asker_of, last_answered
from app.serving.log import read_log
from app.serving.release import RELEASE
from app.serving.shadow import request_of

COLUMNS = ["request_id", "release", "status", "answer", "request_json", "response_json"]


def rated(registry: Registry) -> dict[str, dict[str, float]]:
    """Number and mean of the scores by release."""
    query = select(feedback.c.release, func.count(), func.avg(feedback.c.score)).group_by(feedback.c.release)
    with registry.database.read() as connection:
        rows = connection.execute(query).all()
    found = {_name(registry, release): {"num": num, "mean": float(mean)} for release, num, mean in rows}
    return dict(sorted(found.items()))


def corrections(registry: Registry) -> tuple[list[dict[str, Any]], int]:
    """Preferences in TRL's form: the turns asked, the caller's answer, the answer that was given.

    Returns:
        The rows, and how many were skipped, for this version does not read their requests any more.
    """
    right = Scores.read(registry).right
    found, num_skipped = list[dict[str, Any]](), 0
    for row in last_answered(read_log(registry.workspace.requests_dir).select(COLUMNS).to_pylist()):
        said = right.get((asker_of(row["response_json"]), row["release"])) if row["request_json"] else None
        if said and not exact_match(row["answer"], [said]):
            try:
                turns = request_of(json.loads(row["request_json"])).conversation().messages
            except (ValueError, ApiError):  # pydantic's errors are ValueErrors
                num_skipped += 1
                continue
            sides = {"chosen": said, "rejected": row["answer"]}
            found.append({"prompt": list(turns), **sides, "request_id": row["request_id"]})
    return found, num_skipped


def _name(registry: Registry, release: str) -> str:
    try:
        return registry.get(RELEASE, release).ref
    except VersionNotFound:
        return release
