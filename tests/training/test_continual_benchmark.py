"""The continual benchmark: what it reads, draws and reckons; no model is trained here."""

import gzip
import json

import pytest

from app.core.errors import UsageError
from app.training.matrix import Matrix
from benchmarks._continual_methods import IN_TURN, METHODS, Job, Outcome, Setup, kept_by_peft, make_learner
from benchmarks._continual_tasks import RawTask, TasksUnusable, choose, made_up, read_folder
from benchmarks.continual import (
    chosen_methods,
    draw,
    fitting,
    make_orders,
    make_setup,
    num_epochs,
    ratios,
    summed_up,
    table,
    test_rows,
)

test_rows.__test__ = False


def write_task(folder, name, rows, *, packed=True):
    (folder / name).mkdir(parents=True)
    for split in ("train", "test"):
        text = "".join(json.dumps({"text": f"{split} {text}", "label": label}) + "\n" for text, label in rows)
        if packed:
            with gzip.open(folder / name / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.write(text)
        else:
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")


def test_tasks_are_read_in_their_order_and_unknown_labels_are_counted(tmp_path):
    write_task(tmp_path, "b", [("one", "yes"), ("two", "no"), ("three", "?")])
    write_task(tmp_path, "a", [("one", "x"), ("two", "y")], packed=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "tasks.json").write_text(json.dumps({"b": {"labels": ["yes", "no"]}, "gone": {"labels": ["z"]}}))
    tasks = read_folder(tmp_path)
    assert [(task.name, task.labels, task.num_left_out) for task in tasks] == [
        ("b", ["yes", "no"], 2),
        ("a", ["x", "y"], 0),
    ]
    assert tasks[0].splits["test"] == [("test one", "yes"), ("test two", "no")]


@pytest.mark.parametrize("fault", ["none", "line", "description", "labels"])
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, fault):
    if fault != "none":
        write_task(tmp_path, "a", [("one", "x")])
    if fault == "line":
        (tmp_path / "a" / "test.jsonl.gz").unlink()
        (tmp_path / "a" / "test.jsonl").write_text('{"text": "no label"}\n')
    if fault == "description":
        (tmp_path / "tasks.json").write_text("{")
    if fault == "labels":
        (tmp_path / "tasks.json").write_text('{"a": {"labels": ["other"]}}')
    with pytest.raises(TasksUnusable, match=str(tmp_path)):
        read_folder(tmp_path)


def test_a_sample_follows_from_the_seed_and_is_no_larger_than_asked():
    raw = made_up(seed=0)
    first, again, other = (choose(raw, rows=20, test_rows=30, seed=seed, max_tokens=16) for seed in (1, 1, 2))
    assert [(len(task.train), len(task.test)) for task in first] == [(20, 30)] * 4
    assert first == again != other
    assert [len(task.train) for task in choose(raw, rows=0, test_rows=0, seed=1, max_tokens=16)] == [160] * 4
    assert (
        max(len(row.ids) for task in choose(raw, rows=9, test_rows=9, seed=1, max_tokens=8) for row in task.train) <= 8
    )


def test_the_sample_shrinks_with_more_tasks_and_longer_texts():
    def sets(num, words):
        rows = [(" ".join(["word"] * words), "x"), ("short", "y")] * 500
        return [RawTask(f"t{n}", ["x", "y"], {"train": rows, "test": rows}, 0) for n in range(num)]

    found = [
        fitting(sets(num, words), budget_tokens=5e6, num_orders=1, seed=0, max_tokens=48)
        for num, words in ((8, 44), (4, 44), (16, 44), (8, 9))
    ]
    assert found[2] < found[0] < min(found[1], found[3])
    slower = [
        fitting(sets(8, 44), budget_tokens=budget, num_orders=3, seed=0, max_tokens=48) for budget in (9e6, 2.2e6, 1e6)
    ]
    assert [orders for _, orders in slower] == [3, 2, 1]
    assert slower[0][0] > slower[2][0] > 0
    assert num_epochs(40) > num_epochs(20_000) >= 2
    assert test_rows(400) == 2 * test_rows(200) > test_rows(10)


def test_orders_are_permutations_and_the_given_one_is_first():
    names = list("abcdefgh")
    orders = make_orders(names, 3, seed=0)
    assert orders[0] == names
    assert all(sorted(order) == names for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_every_method_has_a_learner_of_its_own(monkeypatch):
    monkeypatch.setattr("benchmarks._continual_methods.fresh", lambda head: None)
    tasks = choose(made_up(seed=0), rows=50, test_rows=10, seed=0, max_tokens=16)
    setup = make_setup(tasks, seed=0, max_tokens=16)
    assert isinstance(setup, Setup)
    learners = {name: make_learner(name, setup) for name in IN_TURN}
    kept = {"keep_first": 0.0, "keep_last": 0.0}
    kinds = {
        name: (
            each.continual.osft,
            each.continual.replay_share > 0,
            each.continual.refit_heads,
            each.head.base,
            type(each),
        )
        for name, each in learners.items()
    }
    assert len(set(kinds.values())) == len(IN_TURN)
    assert {name for name, (osft, *_) in kinds.items() if osft} == {"osft", "osft_replay"}
    assert {name for name, (_, replays, *_) in kinds.items() if replays} == {"replay", "replay_refit", "osft_replay"}
    ours, plain = (learners[name].continual for name in ("osft_replay", "replay_refit"))
    assert ours.model_copy(update={"osft": False, **kept}) == plain.model_copy(update=kept)
    assert kept_by_peft(4) == {"keep_first": 0.0, "keep_last": 0.75}


def outcome(method, rows, *, order=0):
    return Outcome(Job(method, order, ["a", "b"]), Matrix(["a", "b"], rows), {}, 3.0)


OUTCOMES = [
    outcome("sequential", [[0.9], [0.6, 0.8]]),
    outcome("sequential", [[0.7], [0.6, 0.8]], order=1),
    outcome("peft_osf", [[0.8], [0.7, 0.7]]),
    outcome("osft_replay", [[0.8], [0.75, 0.75]]),
    Outcome(Job("joint", 0, ["a", "b"]), None, {"a": 0.8, "b": 0.7}, 2.0),
    Outcome(Job("single", 0, ["a", "b"]), None, {"a": 0.9, "b": 0.7}, 2.0),
]


def test_the_figures_are_means_over_the_orders():
    results = summed_up(OUTCOMES, ["sequential", "peft_osf", "osft_replay", "joint", "single"])
    assert results["sequential"]["average"] == pytest.approx(0.7)
    assert results["sequential"]["forgetting"] == pytest.approx(0.2)
    assert results["sequential"]["forward_transfer"] == pytest.approx(0.1)
    assert [order["matrix"] for order in results["sequential"]["orders"]] == [[[0.9], [0.6, 0.8]], [[0.7], [0.6, 0.8]]]
    assert results["joint"] == {"average": 0.75, "forgetting": 0.0, "accuracies": {"a": 0.8, "b": 0.7}, "seconds": 2.0}
    found = ratios(results)
    assert found["osft_replay_average_vs_joint"] == pytest.approx(1.0)
    assert found["osft_replay_forgetting_vs_sequential"] == pytest.approx(0.25)
    assert found["osft_replay_forgetting_vs_peft_osf"] == pytest.approx(0.5)
    assert not [name for name in found if name.startswith("osft_average")]
    still = summed_up([outcome("sequential", [[0.5], [0.5, 0.8]]), OUTCOMES[3]], ["sequential", "osft_replay"])
    assert ratios(still) == {}


def test_the_table_and_the_heat_maps_show_every_method(tmp_path):
    results = summed_up(OUTCOMES, ["sequential", "peft_osf", "osft_replay", "joint", "single"])
    figures = {"results": results, "ratios": ratios(results)}
    assert "| osft replay | 0.750 | 0.050 | -0.050 | +0.050 |" in table(figures)
    assert "| joint | 0.750 |  |" in table(figures)
    assert "| osft replay over sequential | | 0.250 | | | |" in table(figures)
    draw(figures, tmp_path / "maps.png")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_methods_are_named_or_refused():
    assert chosen_methods("osft, joint,sequential") == ["sequential", "osft", "joint"]
    assert chosen_methods(",".join(METHODS)) == list(METHODS)
    with pytest.raises(UsageError, match="ewc"):
        chosen_methods("osft,ewc")
