"""Tasks learned in turn: replay, subspaces that are split anew, and the figures of what was forgotten."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from app.training import continual
from app.training.continual import Learner, Reservoir, Task, learn_in_turn, with_logits
from app.training.errors import NothingToTrain
from app.training.heads.per_task import HeadedEncoder, LabelledRow
from app.training.heads.settings import HeadSettings
from app.training.osft import Osft, chosen_weights
from app.training.settings import ContinualSettings

HEAD = HeadSettings(batch_size=8, num_epochs=6, learning_rate=2e-3, head_learning_rate=1e-1, dtype="float32")


def make_model(seed=0):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return HeadedEncoder(BertModel(config, add_pooling_layer=False), dtype="float32")


def make_task(name, first, num=48):
    """Which of two ranges of tokens a text is made of."""
    random = np.random.default_rng(first)
    labels = random.integers(2, size=2 * num)
    rows = [
        LabelledRow(name, [1, *(first + 10 * label + random.integers(10, size=random.integers(3, 8))).tolist()], label)
        for label in labels.tolist()
    ]
    return Task(name, ["low", "high"], rows[:num], rows[num:])


TASKS = [make_task("one", 2), make_task("two", 22), make_task("three", 12)]


def test_the_reservoir_keeps_each_row_with_equal_chance():
    counts = np.zeros(20)
    for seed in range(400):
        reservoir = Reservoir(5, seed=seed)
        reservoir.offer(LabelledRow("t", [1], n) for n in range(12))
        reservoir.offer(LabelledRow("u", [1], n) for n in range(12, 20))
        assert len(reservoir.rows) == 5
        counts[[row.label for row in reservoir.rows]] += 1
    assert counts.min() > 70
    assert counts.max() < 130


def test_draws_pass_over_the_whole_sample():
    reservoir = Reservoir(10, seed=0)
    assert reservoir.draws(3, 4, seed=0) == [[], [], []]
    reservoir.offer(LabelledRow("t", [1], n) for n in range(10))
    drawn = reservoir.draws(5, 4, seed=0)
    assert [len(rows) for rows in drawn] == [4] * 5
    assert sorted(row.label for rows in drawn for row in rows) == sorted([*range(10)] * 2)
    assert reservoir.draws(5, 0, seed=0) == [[]] * 5


def test_what_is_kept_may_not_fall():
    with pytest.raises(ValueError, match="only grows"):
        ContinualSettings(keep_first=0.8, keep_last=0.5)


@pytest.mark.parametrize(
    ("base", "continual"),
    [
        ("trained", ContinualSettings()),
        ("trained", ContinualSettings(replay_share=0.25, replay_rows=20)),
        ("trained", ContinualSettings(osft=True, replay_share=0.25)),
        ("trained", ContinualSettings(osft=True, replay_share=0.5, replay_rows=40, refit_heads=True, rewarm_share=0.5)),
        ("adapted", ContinualSettings()),
        ("frozen", ContinualSettings()),
    ],
)
def test_a_sequence_is_learned_and_judged_after_each_task(base, continual):
    learner = Learner(make_model(), HEAD.model_copy(update={"base": base}), continual)
    seen = []
    matrix = learn_in_turn(TASKS, learner, report=lambda name, row: seen.append((name, len(row))))
    assert seen == [("one", 1), ("two", 2), ("three", 3)]
    assert [len(row) for row in matrix.rows] == [1, 2, 3]
    assert min(matrix.rows[n][n] for n in range(3)) > 0.6
    assert not [each for each in learner.model.encoder.modules() if "lora" in type(each).__name__.lower()]
    again = learn_in_turn(TASKS, Learner(make_model(), learner.head, continual))
    assert again == matrix


def test_each_task_is_learned_in_fewer_directions_and_stays_in_them(monkeypatch):
    kept = []

    class Watched(Osft):
        def __init__(self, parameters, ratios, **how):
            super().__init__(parameters, ratios, **how)
            kept.append({space.num_kept for space in self.subspaces.values()})

    monkeypatch.setattr(continual, "Osft", Watched)
    model = make_model()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    learner = Learner(model, HEAD, ContinualSettings(osft=True, keep_first=0.5, keep_last=1.0))
    learner.learn(TASKS[0], place=0, num_tasks=3)
    learned = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], learned[name])}
    assert changed == set(chosen_weights(model.encoder))
    for place in (1, 2):
        learner.learn(TASKS[place], place=place, num_tasks=3)
    assert kept == [{12}, {18}, {24}]
    assert len(learner.leaks) == 3
    assert all(not weight._backward_hooks for weight in chosen_weights(model.encoder).values())


def test_what_heads_say_changes_less_where_they_are_fitted_anew():
    def moved(**how):
        learner, rows = Learner(make_model(), HEAD, ContinualSettings(replay_share=0.5, **how)), TASKS[0].test
        learner.learn(TASKS[0], place=0, num_tasks=3)
        before = said_of(learner.model, rows)
        for place in (1, 2):
            learner.learn(TASKS[place], place=place, num_tasks=3)
        assert all(len(row.said) == (3 if how["refit_heads"] else 1) for row in learner._reservoir.rows)
        return float((said_of(learner.model, rows) - before).square().mean() / before.square().mean())

    assert moved(refit_heads=True) < 0.5 * moved(refit_heads=False)


def said_of(model, rows):
    return torch.tensor([row.said["one"] for row in with_logits(model, rows, ["one"])])


def test_a_task_without_rows_is_refused_by_name():
    with pytest.raises(NothingToTrain, match="empty"):
        learn_in_turn([Task("empty", ["x"], [], TASKS[0].test)], Learner(make_model(), HEAD, ContinualSettings()))
