"""What callers say of the answers that they got: a score from 0 to 1, a comment, the right answer. The last one counts.

Only who asked may rate. An answer's account names its request together with its caller as one digest (``asked_by``),
which the request log keeps and the receipt seals; whoever rates must come to the same digest. So the id of another's
request, guessed, overheard or used again on purpose, rates nothing. Callers without a key are one caller: among them
whoever knows an id may rate its answer.

Guarantees: kept in the workspace's database, in no leaf and no manifest; gone with its request when that is erased, and
when the subject of an erasure stands in it. An id is looked for in threads that nothing else waits for, in all parts of
the log once, then in new ones. Not guaranteed: that those who rate are like those who do not.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from app.core.clock import timestamp, utc_now
from app.core.database import Database
from app.core.digests import PREFIX
from app.core.schema import feedback
from app.ledger.batches import parts_with
from app.ledger.journal import NAME_TIME
from app.registry.versions import Registry
from app.serving.errors import ApiError, overloaded
from app.serving.limits import Limits
from app.serving.log import RequestLog
from app.serving.schema import Text

RATINGS = {"up": 1.0, "down": 0.0}
MAX_COMMENT, MAX_ANSWER = 4_000, 20_000
MAX_AGE = timedelta(days=30)
"""How long an answer can be rated: so far back is its request looked for."""
COLUMNS = ["request_id", "release", "status", "response_json"]
MIN_POLL_S, MAX_WAIT_S = 0.1, 10.0
MAX_LOOKS, NUM_THREADS = 16, 2
"""Looks into the log that may be under way or wait for a thread."""
OURS = ("chatcmpl-", "cmpl-")


class FeedbackRequest(BaseModel):
    """What a caller says of an answer; ``request_id`` may be the response's id too."""

    model_config = ConfigDict(extra="forbid")

    request_id: Text = Field(min_length=1, max_length=500)
    score: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    rating: Literal["up", "down"] | None = None
    comment: Text = Field(default="", max_length=MAX_COMMENT)
    answer: Text = Field(default="", max_length=MAX_ANSWER)
    """The right one."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.score is None) == (self.rating is None):
            raise ValueError("send a score from 0 to 1, or a rating, up or down")
        return self

    @property
    def value(self) -> float:
        """The score."""
        return RATINGS[self.rating] if self.rating else float(self.score or 0.0)

    @property
    def ids(self) -> list[str]:
        """What the request may be called in the log."""
        shorter = [self.request_id.removeprefix(each) for each in OURS if self.request_id.startswith(each)]
        return [self.request_id, *shorter]


def asked_by(request_id: str, subject: str) -> str:
    """The digest of a request and its caller; ``subject`` as limits name the caller."""
    return PREFIX + sha256(f"{request_id}\0{subject}".encode("utf-8", "replace")).hexdigest()


def asker_of(response: Mapping[str, Any] | str | None) -> str:
    """The same digest as an answer's account says it; empty for an error, an erased row, or one from before."""
    try:
        said = json.loads(response or "{}") if not isinstance(response, Mapping) else response
        return str(said["signalbox"].get("asked_by", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def last_answered(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the log's rows the last that each caller was answered under an id: what is said of the id is said of it."""
    found = {asker_of(row["response_json"]) or row["request_id"]: row for row in rows if row["status"] == 200}
    return list(found.values())


@dataclass(frozen=True)
class Scores:
    """What people said of answers, from 0 to 1: by the endpoint, and by a file, which counts before it."""

    by_asker: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By asker and release."""

    by_request: Mapping[str, float] = field(default_factory=dict)
    right: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Answers that callers gave as the right ones, by asker and release."""

    def of(self, request_id: str, asker: str, release: str) -> float | None:
        """The score of an answer, the last of its asker by this release; None where nobody said anything."""
        return self.by_request.get(request_id, self.by_asker.get((asker, release)))

    @classmethod
    def read(cls, registry: Registry, from_file: Mapping[str, float] | None = None) -> Self:
        """What the endpoint was told, and a file's scores by request."""
        with registry.database.read() as connection:
            rows = {(row.asked_by, row.release): row for row in connection.execute(select(feedback))}
        right = {key: row.answer for key, row in rows.items() if row.answer}
        return cls({key: row.score for key, row in rows.items()}, from_file or {}, right)


class Desk:
    """Takes what the callers of a gateway say."""

    def __init__(self, log: RequestLog, limits: Limits) -> None:
        self._log, self._limits = log, limits
        self._places = asyncio.Semaphore(MAX_LOOKS)
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="feedback")

    async def take(self, said: FeedbackRequest, *, authorization: str | None) -> dict[str, Any]:
        """``/v1/feedback``: keep it in the place of what the caller said of this answer before.

        Raises:
            ApiError: 404, the caller was not answered such a request; 503, too many are looked for; 401, 403, 429 as
                for what was asked.
        """
        caller = await self._limits.caller(authorization)
        caller.check("answer")
        await self._limits.reservation(caller).enter()
        found = await self._find(said, caller.subject)
        if found is None:
            raise not_yours(said.request_id)
        asker = asked_by(found["request_id"], caller.subject)
        row = {"asked_by": asker, "request_id": found["request_id"], "release": found["release"]}
        row |= {"score": said.value, "comment": said.comment, "answer": said.answer, "updated_at": timestamp()}
        await asyncio.to_thread(_keep, self._log.ledger.database, row)
        told = {name: row[name] for name in ("request_id", "score", "release")}
        return {"object": "feedback", **told}

    async def _find(self, said: FeedbackRequest, subject: str) -> dict[str, Any] | None:
        """The answered request; one that was answered just now is waited for until the log must hold it.

        By another gateway's log, that is after twice the time between two parts; by this one's, when it is written.
        """
        now_s = asyncio.get_running_loop().time
        begun_s, told, since = now_s(), self._log.num_told, utc_now() - MAX_AGE
        while True:
            later = utc_now() - timedelta(seconds=MAX_WAIT_S)  # a part is named before it is there
            waited_s = now_s() - begun_s
            held = waited_s >= 2 * self._log.flush_s and self._log.num_settled >= told
            if (found := await self._look(said.ids, subject, since)) is not None:
                return found
            if held or waited_s >= MAX_WAIT_S:
                return None
            since = later
            await asyncio.sleep(max(MIN_POLL_S, self._log.flush_s))

    async def _look(self, ids: Sequence[str], subject: str, since: datetime) -> dict[str, Any] | None:
        if self._places.locked():
            raise overloaded(MAX_LOOKS)
        async with self._places:
            look = partial(find_answered, self._log.folder, subject=subject, since=since)
            within = asyncio.get_running_loop().run_in_executor
            for each in ids:
                if (found := await within(self._threads, look, each)) is not None:
                    return found
        return None


def find_answered(folder: Path, request_id: str, *, subject: str, since: datetime) -> dict[str, Any] | None:
    """The log's row of a request that was answered to this caller; None where no part since then has it any more."""
    asker = asked_by(request_id, subject)
    for part, _, _ in parts_with(folder, request_id, since=f"{since:{NAME_TIME}}"):
        if part.exists():
            rows = pq.read_table(part, columns=COLUMNS, filters=[("request_id", "=", request_id)]).to_pylist()
            mine = [row for row in rows if row["status"] == 200 and asker_of(row["response_json"]) == asker]
            if mine:
                return dict(mine[-1])
    return None


def not_yours(request_id: str) -> ApiError:
    """No such request was answered to this caller."""
    message = f"no request {request_id[:80]!r} of yours was answered in the last {MAX_AGE.days} days"
    told = "send the id of a response that you got, with the key that you asked with"
    code, kind = "request_not_found", "invalid_request_error"
    return ApiError(f"{message}: {told}", status=404, kind=kind, code=code, param="request_id")


def _keep(database: Database, row: Mapping[str, Any]) -> None:
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[database.engine.dialect.name]
    statement = insert(feedback).values(**row).on_conflict_do_update(index_elements=[feedback.c.asked_by], set_=row)
    with database.engine.begin() as connection:
        connection.execute(statement)
