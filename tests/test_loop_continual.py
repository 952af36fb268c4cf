"""Tasks learned in turn by a language model: what is trained on what, judged by what, refused, and gone on from."""

import json
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from app import loop_continual
from app.core.parquet import read_rows, write_rows
from app.governance.gate import replay
from app.governance.policy import load_policy
from app.loop_continual import Lesson, NothingToAskOf, TaskTwice, held_out_suite, learn_in_order, lines
from app.registry.tables import ROWS_FILE
from app.settings import SignalboxSettings
from app.synthesis.schema import ROWS as SYNTHETIC_ROWS
from app.training.presets import SMALL_CONTINUAL, SMALL_OSFT
from app.training.sequence import SequenceSettings

TEAMS = ("one", "two", "three")
NUM = 60


class Killed(BaseException):
    """What a SIGKILL looks like from the inside."""


@dataclass
class School:
    """Tasks with their suites, and stand-ins for training and evaluating that publish real versions."""

    registry: object
    folder: object
    scores: dict = field(default_factory=dict)
    """Share of right answers by (what the model learnt last, suite)."""

    trained: list = field(default_factory=list)
    killed_at: int = -1
    num_folders: int = 0

    def publish(self, kind, name, rows, inputs, *, schema=None, file=ROWS_FILE, **more):
        self.num_folders += 1
        folder = self.folder / f"school{self.num_folders}"
        folder.mkdir()
        write_rows(folder / file, rows, schema=schema or pa.Table.from_pylist(rows).schema)
        return self.registry.publish(kind, name, folder=folder, inputs=inputs, **more)

    def task(self, name, rows=None, number=1):
        rows = rows or [
            row(f"{wording} fee {n} of {name}?", f"{n} euros", f"{name} {n}", split)
            for n in range(NUM)
            for wording, split in (("What is", "train"), ("Tell me", "heldout"))
        ]
        return self.publish("synthetic", name, rows, {"task": name, "number": number}, schema=SYNTHETIC_ROWS)

    def model(self, name, data, parents=()):
        facts = {"learnt": data, "train": {"num_losses_not_finite": 0, "loss_first": 2.0, "loss_last": 0.1}}
        inputs, curve = {"data": data, "parents": list(parents)}, [{"loss": 2.0}, {"loss": 0.1}]
        if found := self.registry.find("model", name, inputs):
            return found
        return self.publish("model", name, curve, inputs, file="loss.parquet", facts=facts, parents=list(parents))

    def train(self, *, name, data, base, settings, **_):
        if len(self.trained) == self.killed_at:
            raise Killed
        self.trained.append((data[0].name, [each.name for each in data[1:]], base, settings))
        return self.model(name, data[0].name, [base.digest, *(each.digest for each in data)])

    def evaluate(self, model, suite, **_):
        rate = self.scores.get((model.facts["learnt"], suite.name.removesuffix("-heldout")), 0.0)
        inputs = {"model": model.digest, "suite": suite.digest}
        name = f"{model.name}-{suite.name}"
        if found := self.registry.find("evaluation", name, inputs):
            return found
        asked = read_rows(self.registry.folder(suite) / ROWS_FILE)
        rows = [
            {**each, "prediction": "x", "exact_match": float(n < rate * len(asked))} for n, each in enumerate(asked)
        ]
        facts = {"exact_match": {"value": sum(each["exact_match"] for each in rows) / len(rows)}, "model": model.digest}
        parents = [model.digest, suite.digest]
        return self.publish("evaluation", name, rows, inputs, facts=facts, parents=parents)


def row(question, answer, subject, split, **more):
    given = {"question": question, "answer": answer, "answers": [answer], "subject": subject, "attribute": "fee",
             "chunk_id": "c", "document_id": "d", "source": "s", "method": "table", "template": "t", "seed": 0,
             "split": split, "row_id": f"{question}{answer}{split}"}  # fmt: skip
    return given | more


LEARNT = {(name, name): 0.9 for name in TEAMS} | {("two", "one"): 0.88, ("three", "one"): 0.9, ("three", "two"): 0.88}
AHEAD = {("base", "three"): 0.1, ("one", "two"): 0.05, ("two", "three"): 0.3}


@pytest.fixture
def school(registry, tmp_path, monkeypatch):
    made = School(registry, tmp_path, LEARNT | AHEAD)
    monkeypatch.setattr(loop_continual, "train", made.train)
    monkeypatch.setattr(loop_continual, "evaluate", made.evaluate)
    return made


def course(school, *, recipe=SMALL_CONTINUAL, over_budget="stop", **changes):
    base = school.model("small", "base")
    tasks = [school.task(name) for name in TEAMS]
    lessons = [
        Lesson(task, held_out_suite(task, tasks[place + 1 :], registry=school.registry))
        for place, task in enumerate(tasks)
    ]
    settings = SignalboxSettings()
    how = SequenceSettings(over_budget=over_budget, **changes)
    training = settings.training.model_copy(update={"sequence": how})
    return learn_in_order(
        "small", base=base, lessons=lessons, recipe=recipe, policy=load_policy("continual"), registry=school.registry,
        settings=settings.model_copy(update={"training": training}),
    )  # fmt: skip


def test_each_task_is_learned_on_the_model_before_with_the_tasks_before_replayed(school):
    version = course(school, recipe=SMALL_OSFT, keep_first=0.4, keep_last=0.8)
    assert [each[:2] for each in school.trained] == [("one", []), ("two", ["one"]), ("three", ["two", "one"])]
    bases = [base.facts["learnt"] for _, _, base, _ in school.trained]
    assert bases == ["base", "one", "two"]
    shares = [settings.osft.unfreeze_rank_ratio for *_, settings in school.trained]
    assert shares == pytest.approx([0.6, 0.4, 0.2])
    assert school.registry.get("model", version.facts["model"]).facts["learnt"] == "three"


def test_the_matrix_and_its_figures_are_published(school):
    version = course(school)
    folder = school.registry.folder(version)
    whole = json.loads((folder / "matrix.json").read_text())
    assert whole["rows"] == [pytest.approx(row, abs=0.01) for row in ([0.9], [0.88, 0.9], [0.9, 0.88, 0.9])]
    assert (folder / "matrix.png").read_bytes()[:4] == b"\x89PNG"
    facts = version.facts
    assert facts["average"] == pytest.approx(0.893, abs=0.01)
    assert facts["forgetting"] == pytest.approx(0.01, abs=0.01)
    assert facts["forward_transfer"] == pytest.approx((0.05 + 0.2) / 2, abs=0.01)
    assert {"average", "three@1", "learnt"} <= set(" ".join(lines(version)).split())


def test_a_verdict_stands_behind_each_task_and_can_be_replayed(school):
    version = course(school)
    for told in version.facts["tasks"]:
        verdict = school.registry.get("verdict", told["verdict"])
        assert verdict.facts["light"] in ("green", "amber")
        assert replay(verdict, registry=school.registry).same
    assert set(version.parents) >= {told["verdict"] for told in version.facts["tasks"]}


def test_a_task_that_makes_it_forget_ends_the_sequence(school):
    school.scores |= {("two", "one"): 0.5}
    version = course(school)
    assert [each["state"] for each in version.facts["tasks"]] == ["learnt", "refused", "not begun"]
    assert "worst change in exact_match, one-heldout@1" in " ".join(version.facts["tasks"][1]["reasons"])
    assert (version.facts["light"], version.facts["num_learnt"]) == ("red", 1)
    assert school.registry.get("model", version.facts["model"]).facts["learnt"] == "one"
    assert [each[0] for each in school.trained] == ["one", "two"]


def test_or_it_is_left_out_and_the_next_goes_on_from_the_model_before(school):
    school.scores |= {("two", "one"): 0.5}
    version = course(school, over_budget="roll_back")
    assert [each["state"] for each in version.facts["tasks"]] == ["learnt", "refused", "learnt"]
    assert school.trained[2][:2] == ("three", ["one"])
    assert school.trained[2][2].facts["learnt"] == "one"
    whole = json.loads((school.registry.folder(version) / "matrix.json").read_text())
    assert whole["tasks"] == ["one@1", "three@1"]


def test_forgetting_counts_from_the_best_that_a_task_ever_was(school):
    school.scores |= {("one", "one"): 0.8, ("two", "one"): 1.0, ("three", "one"): 0.8}
    assert [each["state"] for each in course(school).facts["tasks"]] == ["learnt", "learnt", "refused"]


def test_a_sequence_whose_first_task_is_refused_keeps_its_base(school):
    school.scores |= {("base", "one"): 0.95, ("one", "one"): 0.5}
    version = course(school, over_budget="stop")
    assert version.facts["num_learnt"] == 0
    assert "average" not in version.facts
    assert school.registry.get("model", version.facts["model"]).facts["learnt"] == "base"


def test_a_killed_sequence_goes_on_where_it_ended(school):
    school.killed_at = 1
    with pytest.raises(Killed):
        course(school)
    school.killed_at = -1
    whole = course(school)
    again = course(school)
    assert again.digest == whole.digest
    assert [each[0] for each in school.trained] == ["one", "one", "two", "three"]


def test_a_task_is_named_once(school):
    task = school.task("one")
    lesson = Lesson(task, held_out_suite(task, [], registry=school.registry))
    with pytest.raises(TaskTwice, match="one@1"):
        learn_in_order(
            "small", base=school.model("small", "base"), lessons=[lesson, lesson], recipe=SMALL_CONTINUAL,
            policy=load_policy("continual"), registry=school.registry, settings=SignalboxSettings(),
        )  # fmt: skip


def test_what_later_tasks_answer_otherwise_or_train_on_is_not_asked(school):
    first = [
        row(f"What is the fee of {name}?", "5 euros", name, "heldout") for name in ("same", "moved", "seen", "alone")
    ]
    later = [
        row("Fee of same?", "5 euros", "same", "train"),
        row("Fee of moved?", "6 euros", "moved", "train"),
        row("What is the fee of seen?", "5 euros", "seen", "train"),
    ]
    suite = held_out_suite(school.task("a", first), [school.task("b", later)], registry=school.registry)
    asked = [each["subject"] for each in read_rows(school.registry.folder(suite) / ROWS_FILE)]
    assert sorted(asked) == ["alone", "same"]


def test_a_task_without_held_out_questions_needs_a_suite(school):
    task = school.task("a", [row("What?", "5", "x", "train")])
    with pytest.raises(NothingToAskOf, match="--suite"):
        held_out_suite(task, [], registry=school.registry)
