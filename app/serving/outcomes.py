"""What a router is trained on, from where it is: synthetic rows, suites, evaluations, and the request log.

From the log a share of the requests is taken by a hash of their ids (the **shadow sample**: every model of the release
answers them again, offline), with what people said of the answers given. Outcomes are published before a router is
trained on them, so that a leaf of the ledger fixes rows, parts and promise first.

Guarantees: the same sources and release give the same version, found again; it holds numbers, no question and no
answer. Not guaranteed: passages that only some callers may see: the search is the public one.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.core.digests import digest_json
from app.core.errors import UsageError
from app.core.parquet import read_rows
from app.governance.release import MODEL
from app.inference.conversation import Conversation
from app.inference.models import find_model
from app.inference.passages import PASSAGES
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version, VersionNotFound
from app.routing.calibrate import SPLIT
from app.routing.collect import Question, collect
from app.routing.limits import ModelCard
from app.routing.sample import KIND, PARTS, Sample
from app.routing.settings import RoutingSettings
from app.serving.errors import ApiError
from app.serving.feedback import Scores, asker_of, last_answered
from app.serving.log import read_log
from app.serving.release import Release
from app.serving.replicas import Asked, Retriever
from app.serving.requests import ChatRequest
from app.serving.schema import Routing
from app.serving.settings import ServingSettings

CODE_VERSION = "outcomes-1"
LOG = "log"
COLUMNS = ["request_id", "release", "route", "status", "question", "request_json", "response_json"]
KINDS = ("synthetic", "suite", "evaluation")


class NoQuestions(UsageError):
    """There is nothing to ask the models: name rows, a suite or an evaluation, or take a share of the request log."""


class BadFeedback(UsageError):
    """A file of feedback cannot be read; the message names the line."""


def find_source(ref: str, registry: Registry) -> Version:
    """Outcomes, synthetic rows, a suite or an evaluation of that reference.

    Raises:
        NoQuestions: there is none.
    """
    for kind in (KIND, *KINDS):
        try:
            return registry.get(kind, ref)
        except VersionNotFound:
            continue
    raise NoQuestions(f"there are no outcomes, rows, suite or evaluation {ref!r}: name one, or `log`")


def questions_of(source: Version, registry: Registry) -> list[Question]:
    """The questions of synthetic rows (split "calibration"), a suite or an evaluation, with their accepted answers.

    Raises:
        NoQuestions: it holds none, as what jobs.shadow publishes.
    """
    rows = read_rows(registry.folder(source) / ROWS_FILE)
    if any("question" not in row for row in rows):
        raise NoQuestions(f"{source.kind} {source.ref} is of traffic and holds no questions: name a suite, or `log`")
    kept = [row for row in rows if row.get("split", SPLIT) == SPLIT]
    return [
        Question(str(row.get("row_id") or row["question_id"]), row["question"], source.kind, tuple(row["answers"]))
        for row in kept
    ]


def questions_of_log(
    folder: Path,
    *,
    release: str,
    share: float,
    since: datetime | None = None,
    feedback: Scores | None = None,
) -> list[Question]:
    """A share of the routed requests that a release answered, and every one whose answer by a model people judged.

    Requests with tools are left out: the models are asked without.

    Args:
        feedback: scores from 0 to 1 of answers; one of a quotation says nothing of the model that it stood in for.
    """
    said, found = feedback or Scores(), []
    table = read_log(folder, since=since).select(COLUMNS)
    for row in last_answered(table.to_pylist()):
        routing = routing_of(row["response_json"]) if row["release"] == release else None
        if routing is None or brings_tools(row["request_json"]):
            continue
        asker = asker_of(row["response_json"]) if row["route"] == routing.used else None
        score = None if asker is None else said.of(row["request_id"], asker, release)
        if score is not None or is_sampled(row["request_id"], share):
            scores = {} if score is None else {routing.used: score}
            about = ("shadow" if score is None else "feedback", (), scores)
            found.append(Question(row["request_id"], row["question"], *about, within=conversation_of(row)))
    return found


def conversation_of(row: Mapping[str, Any]) -> Conversation | None:
    """The turns of a logged request; None where there is the question alone."""
    try:
        sent = json.loads(row["request_json"] or "{}")
        asked = ChatRequest.model_validate({"messages": sent.get("messages")}).conversation()
    except (ValueError, ApiError):  # pydantic's errors are ValueErrors
        return None
    return asked if len(asked.messages) > 1 else None


def routing_of(response_json: str | None) -> Routing | None:
    """How the router chose, by a logged response; None where a model was asked for by name, or the row was erased."""
    try:
        value = json.loads(response_json or "{}")["signalbox"]["routing"]
    except (ValueError, KeyError, TypeError):
        return None
    return Routing.model_validate(value) if value else None


def brings_tools(request_json: str | None) -> bool:
    """Whether a logged request was sent with tools: the same cannot be asked offline."""
    try:
        return bool(json.loads(request_json or "{}").get("tools"))
    except (ValueError, AttributeError):
        return False


def is_sampled(request_id: str, share: float) -> bool:
    """Whether a request is in the shadow sample of a share: by a hash, so that a larger share holds the smaller."""
    return int.from_bytes(sha256(request_id.encode()).digest()[:8], "big") < share * 2**64


def read_feedback(path: Path) -> dict[str, float]:
    """Scores by request of a file of JSON lines: ``{"request_id": ..., "score": 0 to 1}``.

    Raises:
        BadFeedback: a line is no such object.
    """
    try:
        return dict(_scores(path.read_text(encoding="utf-8").splitlines(), path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadFeedback(f"{path} cannot be read ({error}): give a file of JSON lines") from error


def _scores(lines: Iterable[str], path: Path) -> Iterator[tuple[str, float]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            request, score = str(row["request_id"]), float(row["score"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadFeedback(f"{path}, line {number}: give request_id and score, as JSON ({error!r})") from error
        if not 0 <= score <= 1:
            raise BadFeedback(f"{path}, line {number}: the score is {score}, give one from 0 to 1")
        yield request, score


def ask_models(
    name: str,
    questions: Sequence[Question],
    release: Release,
    *,
    sources: Sequence[str],
    registry: Registry,
    settings: RoutingSettings,
) -> Version:
    """Publish the outcomes of questions under a release's models and index; one of the same inputs is found again.

    Args:
        sources: digests of the versions that the questions are from.

    Raises:
        NoQuestions: there is none, or the release has no model.
    """
    if not questions or not release.models:
        raise NoQuestions(f"there is no question for the models of {release.ref}: give more sources, or a larger share")
    models = {rung: model.digest for rung, model in release.models.items()}
    asked = [
        [each.row_id, each.text, each.source, list(each.answers), dict(each.scores), *_turns(each)]
        for each in questions
    ]
    inputs: dict[str, Any] = {"models": models, "index": release.index, "prompt": release.prompt, "code": CODE_VERSION}
    inputs |= {"questions": digest_json(sorted(asked)), "settings": settings.model_dump(mode="json")}
    inputs |= {PASSAGES: passages} if (passages := release.passages) else {}
    if found := registry.find(KIND, name, inputs):
        return found
    sample, cards = collect(
        questions,
        {rung: _builder(registry, digest, settings) for rung, digest in models.items()},
        search=_search(registry, release, settings),
        prompt_for=release.prompt_for,
        settings=settings,
        prices={rung: release.price(rung) for rung in models},
    )
    parents = list(dict.fromkeys([*sources, release.index, *models.values()]))
    with tempfile.TemporaryDirectory() as folder:
        sample.save(Path(folder))
        facts = facts_of(sample, cards, models=models, index=release.index, settings=settings)
        facts |= {PASSAGES: passages} if passages else {}
        return registry.publish(KIND, name, folder=Path(folder), inputs=inputs, parents=parents, facts=facts)


def _turns(question: Question) -> list[Any]:
    """What the digest of a question has beside the question itself."""
    return [list(map(dict, question.within.messages))] if question.within else []


def facts_of(
    sample: Sample, cards: Mapping[str, ModelCard], *, models: Mapping[str, str], index: str, settings: RoutingSettings
) -> dict[str, Any]:
    """What a version of outcomes states: rows, qualities, and what will be promised on which part of them."""
    means = sample.quality.mean(axis=0)
    sources = [row.source for row in sample.rows]
    return {
        "rungs": list(sample.rungs),
        "models": dict(models),
        "index": index,
        "embedded": sample.embedded,
        "num_rows": len(sample),
        "num_by_source": {source: sources.count(source) for source in sorted(set(sources))},
        "quality": {rung: float(mean) for rung, mean in zip(sample.rungs, means, strict=True)},
        "cards": {rung: card.to_json() for rung, card in cards.items()},
        "promise": {
            "tolerance": settings.tolerance,
            "confidence": settings.guarantee_confidence,
            "explore": settings.explore,
            "parts": {part: PARTS.count(part) / len(PARTS) for part in dict.fromkeys(PARTS)},
        },
    }


def _builder(registry: Registry, digest: str, settings: RoutingSettings) -> Any:
    return lambda: find_model(registry.get(MODEL, digest), registry=registry).load(num_threads=settings.num_threads)


def _search(registry: Registry, release: Release, settings: RoutingSettings) -> Any:
    """Questions -> what the serving retriever finds for them; loaded with the first."""
    serving = ServingSettings(workspace=str(registry.workspace.root), num_threads=settings.num_threads)
    held: list[Retriever] = []
    top_k = release.top_k(settings.top_k)

    def search(questions: Sequence[str]) -> Any:
        held[:] = held or [Retriever(serving)]
        return held[0].retrieve([Asked(release.index, question, top_k) for question in questions])

    return search
