"""Batches answered by Ray Data: actors that hold the application without Serve, behind everybody else's work.

Guarantees: an answer of a batch is what the gateway would give, logged, accounted for and with a receipt like any
other, under the access labels that the owner's key holds when it is answered; a routed request is answered by the large
model, since nobody waits for it. The actors run at the lowest priority of the operating system. Not guaranteed: that a
batch ends within its window on a busy machine; what is not answered by then is named in its error file.
"""

import asyncio
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from app.core.workspace import Workspace
from app.serving.batches import Batches, Line
from app.serving.offline import Offline
from app.serving.settings import ServingSettings

LINES = pa.schema([("number", pa.int64()), ("custom_id", pa.string()), ("body", pa.string())])
ANSWERS = pa.schema([("answer", pa.string())])
NICENESS = 19
MEMORY_BYTES = 1024**3


def answer_batch(
    workspace: Workspace, batch_id: str, *, release: str, settings: ServingSettings, num_workers: int, at_once: int
) -> dict[str, Any]:
    """Answer what is not answered yet, and end the batch; its description comes back.

    Args:
        release: the release that answers, by digest: one for the whole batch.
        num_workers: actors, each with its own copy of the models.
        at_once: lines that an actor answers together, and that a part holds.
    """
    batches = Batches(workspace).owner_of(batch_id)
    left = batches.unanswered(batch_id)
    asked = (settings, release, batches.owner, batch_id)
    for answers in _answer(left, asked, num_workers, at_once) if left else ():
        batches.write_part(batch_id, answers)
        if batches.given_up(batch_id):
            break
    return batches.finish(batch_id)


def _answer(
    lines: Sequence[Line], asked: tuple[ServingSettings, str, str, str], num_workers: int, at_once: int
) -> Iterator[list[Mapping[str, Any]]]:
    rows = [{"number": line.number, "custom_id": line.custom_id, "body": json.dumps(line.body)} for line in lines]
    answered = (
        ray.data.from_arrow(pa.Table.from_pylist(rows, schema=LINES))
        .repartition(max(1, len(lines) // at_once))
        .map_batches(
            AnswerLines,
            fn_constructor_args=asked,
            compute=ActorPoolStrategy(size=num_workers),
            batch_format="pyarrow",
            batch_size=at_once,
            num_cpus=asked[0].num_threads,
            memory=MEMORY_BYTES,
        )
    )
    for batch in answered.iter_batches(batch_format="pyarrow", batch_size=None):
        answers = [json.loads(answer) for answer in batch.column("answer").to_pylist()]
        yield sorted(answers, key=lambda answer: answer["number"])


class AnswerLines:
    """The actor: the application over Arrow tables of lines."""

    def __init__(self, settings: ServingSettings, release: str, owner: str, batch_id: str) -> None:
        os.nice(NICENESS)
        self._loop = asyncio.new_event_loop()
        given_up = functools.partial(Batches(Workspace.find(settings.workspace)).given_up, batch_id)
        self._application = Offline(settings, owner=owner, given_up=given_up)
        self._loop.run_until_complete(self._application.take(release))

    def __call__(self, lines: pa.Table) -> pa.Table:
        asked = [Line(row["number"], row["custom_id"], json.loads(row["body"])) for row in lines.to_pylist()]
        answers = self._loop.run_until_complete(self._application.answer(asked))
        return pa.table({"answer": [json.dumps(answer) for answer in answers]}, schema=ANSWERS)

    def __del__(self) -> None:
        self._application.close()
