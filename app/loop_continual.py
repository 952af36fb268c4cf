"""Tasks learned one after another by one language model: train, ask the suites of all tasks so far, judge, go on.

Guarantees: every step is found again by its inputs, so that a sequence that was killed goes on where it ended; each
task's suite stands in the ledger before any of the trainings; a model is gone on from only if its verdict is not red.
Not guaranteed: that anything reaches production; `promote` alone moves that.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core.errors import UsageError
from app.core.parquet import read_rows
from app.core.progress import progress
from app.evaluation.pipeline import evaluate
from app.evaluation.suite import publish_suite
from app.governance.evidence import TARGET, Evidence
from app.governance.findings import SEVERITY
from app.governance.gate import judge
from app.governance.policy import Policy
from app.governance.stoplights import red_reasons
from app.ledger.keys import Signer
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version
from app.settings import SignalboxSettings
from app.training.matrix import Matrix, draw_matrices, zero_shot_transfer
from app.training.sequence import SequenceSettings, recipe_at
from app.training.settings import TrainSettings
from app.training.trainer import train

KIND, CODE_VERSION = "sequence", "sequence-1"
MATRIX_FILE, PLOT_FILE = "matrix.json", "matrix.png"
HELD_OUT, METRIC = "heldout", "exact_match"
QUESTION = ("question", "subject", "source")
LEARNT, REFUSED, LEFT = "learnt", "refused", "not begun"


class NothingToAskOf(UsageError):
    """A task has no held-out questions with answers to be judged by: give it a suite of its own with --suite."""


class TaskTwice(UsageError):
    """The same rows were named twice: name each task of a sequence once."""


@dataclass(frozen=True)
class Lesson:
    """Rows to learn, and the suite that judges how well they were learnt."""

    data: Version
    suite: Version


@dataclass
class Course:
    """A sequence under way: what was learnt, by which models, and what they knew after each task."""

    model: Version
    start: dict[str, float] = field(default_factory=dict)
    """By the digest of a suite: what the base knows of it."""
    ahead: list[float] = field(default_factory=list)
    learnt: list[Lesson] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)
    best: dict[str, Version] = field(default_factory=dict)
    """By the digest of a suite: the evaluation with the highest accuracy so far."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """Of each task: its state, model, verdict, light and reasons."""
    parents: list[str] = field(default_factory=list)


def learn_in_order(
    name: str,
    *,
    base: Version,
    lessons: Sequence[Lesson],
    recipe: TrainSettings,
    policy: Policy,
    registry: Registry,
    settings: SignalboxSettings,
    trainer: Signer | None = None,
) -> Version:
    """Learn tasks in their order with one recipe, and publish the sequence: its matrix, figures and heat map.

    Replayed are the rows of the tasks before, as the recipe says. Each task's model must pass the policy, where its
    suite is the target, production the model before, and the suites of all earlier tasks are regression suites, each
    beside the best that any model of the sequence reached. A red verdict ends the sequence or leaves that task out
    (``settings.training.sequence.over_budget``).

    Raises:
        TaskTwice: two tasks are the same version.

    Returns:
        A version of kind ``sequence``; ``facts["model"]`` is the last model that was not refused.
    """
    how, refs = settings.training.sequence, [each.data.ref for each in lessons]
    if again := [ref for ref in refs if refs.count(ref) > 1]:
        raise TaskTwice(f"{again[0]} was named twice: name each task of a sequence once")
    inputs = _inputs(base, lessons, recipe, how, policy)
    if found := registry.find(KIND, name, inputs):
        return found
    course = Course(base)
    for each in lessons:
        course.start[each.suite.digest] = _accuracy(_asked(base, each.suite, course, registry, settings))
    with progress(f"tasks of {name}", len(lessons)) as bar:
        for place, lesson in enumerate(lessons):
            if how.over_budget == "stop" and any(each["state"] == REFUSED for each in course.told):
                course.told.append({"task": lesson.data.ref, "state": LEFT})
                continue
            now = recipe_at(recipe, how, place=place, num_tasks=len(lessons))
            model = train(
                name=name, data=[lesson.data, *(each.data for each in reversed(course.learnt))], base=course.model,
                registry=registry, workspace=registry.workspace, settings=now, signer=trainer,
            )  # fmt: skip
            _judge(model, lesson, course, policy=policy, registry=registry, settings=settings)
            bar.advance(1, f"{lesson.data.ref}: {course.told[-1]['state']}")
    return _publish(name, course, inputs, registry=registry)


def held_out_suite(data: Version, later: Sequence[Version], *, registry: Registry) -> Version:
    """The suite of a version's held-out rows, but for questions that later versions answer otherwise or train on.

    Raises:
        NothingToAskOf: no such row has an answer.
    """
    own, *others = (read_rows(registry.folder(each) / ROWS_FILE) for each in (data, *later))
    said: dict[tuple[str, str], set[str]] = {}
    for row in (row for rows in others for row in rows):
        said.setdefault(_topic(row), set()).update(row["answers"] or [])
    trained = {row["question"] for rows in (own, *others) for row in rows if row["split"] != HELD_OUT}
    asked = [row for row in own if row["split"] == HELD_OUT and row["answers"] and row["question"] not in trained]
    kept = [row for row in asked if said.get(_topic(row), set(row["answers"])) & set(row["answers"])]
    if not kept:
        raise NothingToAskOf(f"{data.ref} has no held-out question with an answer: name a suite for it with --suite")
    questions = [
        {"question_id": row["row_id"], "answers": row["answers"], **{name: row[name] or "" for name in QUESTION}}
        for row in kept
    ]
    return publish_suite(f"{data.name}-{HELD_OUT}", questions, origin=data.ref, registry=registry)


def _topic(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["subject"] or "", row["attribute"] or row["question"] or ""


def _judge(
    model: Version, lesson: Lesson, course: Course, *, policy: Policy, registry: Registry, settings: SignalboxSettings
) -> None:
    """Ask a task's model, judge it, and go on from it unless it is refused."""
    known = [*course.learnt, lesson]
    before = _asked(course.model, lesson.suite, course, registry, settings)
    found = [_asked(model, each.suite, course, registry, settings) for each in known]
    labels = [*(each.suite.ref for each in course.learnt), TARGET]
    best = [*(course.best[each.suite.digest] for each in course.learnt), before]
    evidence = Evidence.collect(
        model,
        registry=registry,
        candidate=dict(zip(labels, found, strict=True)),
        production=dict(zip(labels, best, strict=True)),
    )
    verdict = judge(policy, evidence, registry=registry)
    light = verdict.facts["light"]
    state = REFUSED if light == "red" else LEARNT
    course.told.append(
        {"task": lesson.data.ref, "state": state, "model": model.digest, "verdict": verdict.digest, "light": light,
         "reasons": red_reasons(verdict), "accuracies": [_accuracy(each) for each in found]}
    )  # fmt: skip
    course.parents += [model.digest, verdict.digest]
    if state == LEARNT:
        course.model = model
        course.learnt.append(lesson)
        course.ahead.append(_accuracy(before))
        course.rows.append([_accuracy(each) for each in found])
        for each, evaluation in zip(known, found, strict=True):
            past = course.best.get(each.suite.digest)
            if past is None or _accuracy(evaluation) > _accuracy(past):
                course.best[each.suite.digest] = evaluation


def _asked(model: Version, suite: Version, course: Course, registry: Registry, settings: SignalboxSettings) -> Version:
    found = evaluate(model, suite, registry=registry, settings=settings.evaluation)
    course.parents.append(found.digest)
    return found


def _accuracy(evaluation: Version) -> float:
    return float(evaluation.facts[METRIC]["value"])


def _inputs(
    base: Version, lessons: Sequence[Lesson], recipe: TrainSettings, how: SequenceSettings, policy: Policy
) -> dict[str, Any]:
    return {
        "base": base.digest,
        "tasks": [{"data": each.data.digest, "suite": each.suite.digest} for each in lessons],
        "recipe": recipe.inputs(),
        "sequence": how.model_dump(mode="json"),
        "policy": policy.to_json(),
        "code": CODE_VERSION,
    }


def _publish(name: str, course: Course, inputs: Mapping[str, Any], *, registry: Registry) -> Version:
    """The sequence with its matrix as JSON and as a heat map; without either where no task was learnt."""
    matrix = Matrix([each.data.ref for each in course.learnt], course.rows)
    start = [course.start[each.suite.digest] for each in course.learnt]
    facts = {
        "model": course.model.digest,
        "num_learnt": len(course.learnt),
        "light": max((each["light"] for each in course.told if "light" in each), key=SEVERITY.__getitem__),
        **(figures(matrix, ahead=course.ahead, start=start) if matrix.rows else {}),
        "tasks": course.told,
    }
    with tempfile.TemporaryDirectory(prefix="sequence-") as folder:
        whole = {"tasks": matrix.tasks, "rows": matrix.rows, "ahead": course.ahead, "start": start}
        (Path(folder) / MATRIX_FILE).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        if matrix.rows:
            draw_matrices({name: matrix}, Path(folder) / PLOT_FILE)
        parents = list(dict.fromkeys([*_digests(inputs), *course.parents]))
        return registry.publish(KIND, name, folder=Path(folder), inputs=inputs, parents=parents, facts=facts)


def figures(matrix: Matrix, *, ahead: Sequence[float], start: Sequence[float]) -> dict[str, float]:
    """Average accuracy, forgetting, and backward and forward transfer of a sequence."""
    return {
        "average": matrix.average(),
        "forgetting": matrix.forgetting(),
        "backward_transfer": matrix.backward_transfer(),
        "forward_transfer": zero_shot_transfer(ahead, start),
    }


def _digests(inputs: Mapping[str, Any]) -> list[str]:
    return [inputs["base"], *(digest for task in inputs["tasks"] for digest in task.values())]


def lines(version: Version) -> list[str]:
    """A sequence for people: the matrix in percent, a line a task, and its figures."""
    facts = version.facts
    shown = [f"{each['task']:>24}  {each['state']:<9}  {_row(each)}".rstrip() for each in facts["tasks"]]
    said = [f"  {reason}" for each in facts["tasks"] for reason in each.get("reasons", [])]
    names = ("average", "forgetting", "backward_transfer", "forward_transfer")
    told = ", ".join(f"{name.replace('_', ' ')} {facts[name]:+.3f}" for name in names if name in facts)
    return [f"sequence {version.ref} ({version.short})", *shown, *said, told]


def _row(told: Mapping[str, Any]) -> str:
    return " ".join(f"{100 * each:5.1f}" for each in told.get("accuracies", []))
