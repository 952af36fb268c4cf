"""A search space: what may vary, how it is drawn, what is held out, and what the trials came to."""

import pytest

from app.training.data import Example, load_examples, save_examples
from app.training.errors import NothingToTrain
from app.training.search.judging import BadMetric, Judge, judge_of
from app.training.search.report import best_of, outcome, write_trials
from app.training.search.space import (
    BadSpace,
    SearchSettings,
    draw,
    hold_out,
    names_of,
    read_space,
    trial_settings,
    with_values,
)
from app.training.settings import TrainSettings

RECIPE = TrainSettings(num_steps=40)


def written(folder, text: str):
    path = folder / "space.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "varies nothing"),
        ("learning_rat: {choice: [1]}", "unknown setting 'learning_rat' .* did you mean 'learning_rate'"),
        ("lora.ranks: {choice: [1]}", "did you mean 'lora.rank'"),
        ("lora: {choice: [1]}", "unknown setting 'lora'"),
        ("workers.num_workers: {choice: [1]}", "may not vary"),
        ("max_row_tokens: {choice: [64]}", "may not vary"),
        ("head.task: {choice: [span]}", "may not vary"),
        ("num_epochs: {choice: [1, 2]}", "may not vary"),
        ("learning_rate: 0.1", "say how it varies"),
        ("learning_rate: {normal: [0, 1]}", "by one of choice, uniform, log_uniform, integer"),
        ("learning_rate: {choice: []}", "takes a list of values"),
        ("learning_rate: {log_uniform: [0, 1.0]}", "two numbers over 0"),
        ("learning_rate: {uniform: [0.2, 0.1]}", "the smaller first"),
        ("learning_rate: {log_uniform: [1e-4, 1e-2]}", "needs its point"),
    ],
)
def test_a_space_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(BadSpace, match=message):
        read_space(written(tmp_path, text), RECIPE)


def test_draws_follow_from_the_seed_and_stay_in_their_ranges(tmp_path):
    text = "learning_rate: {log_uniform: [0.0001, 0.01]}\nbatch_size: {choice: [16, 32]}\nlora.rank: {integer: [4, 8]}"
    space = read_space(written(tmp_path, text), RECIPE)
    trials = draw(space, RECIPE, SearchSettings(num_trials=20))
    assert trials == draw(space, RECIPE, SearchSettings(num_trials=20))
    assert trials != draw(space, RECIPE, SearchSettings(num_trials=20, seed=1))
    assert {each.settings.batch_size for each in trials} == {16, 32}
    assert {each.settings.lora.rank for each in trials} == set(range(4, 9))
    rates = sorted(each.settings.learning_rate for each in trials)
    assert 1e-4 <= rates[0] < 3e-4 < 3e-3 < rates[-1] <= 1e-2
    assert with_values(RECIPE, trials[0].values) == trials[0].settings
    assert len(draw({"seed": {"choice": [1, 2]}}, RECIPE, SearchSettings(num_trials=9))) == 2


def test_a_draw_that_makes_no_recipe_says_which():
    with pytest.raises(BadSpace, match=r'"batch_size": 33.* multiple of train.workers.num_workers'):
        draw({"batch_size": {"choice": [33]}}, RECIPE, SearchSettings())


def test_a_trial_runs_with_one_worker_and_is_judged_at_every_rung():
    (trial,) = draw({"seed": {"choice": [7]}}, RECIPE, SearchSettings())
    found = trial_settings(trial, SearchSettings(num_rungs=5))
    assert (found.workers.range, found.num_checkpoints, found.seed) == ((1, 1), 5, 7)
    assert trial.settings.workers == RECIPE.workers


def test_the_dotted_names_are_those_of_the_settings():
    names = names_of(TrainSettings)
    assert {"learning_rate", "lora.rank", "workers.num_threads"} < set(names)
    assert "lora" not in names


def test_a_row_is_held_out_whole_and_what_is_replayed_never():
    rows = [Example([1, 2], 1, pool=place % 4 == 3, row_id=f"row {place // 2}") for place in range(400)]
    learned, judged = hold_out(rows, 0.2)
    assert (learned, judged) == hold_out(rows, 0.2)
    assert 0.1 < len(judged) / 300 < 0.3
    assert {each.pool for each in judged} == {0}
    fresh = {each.row_id for each in learned if each.pool == 0}
    assert not fresh & {each.row_id for each in judged}
    with pytest.raises(NothingToTrain, match="too few"):
        hold_out(rows[:1], 0.2)


def rungs(*pairs, **more) -> list[dict]:
    lines = [{"event": "rung", "step": step, "heldout_loss": loss} for step, loss in pairs]
    return [{"event": "start", "step": 0}, *(line | {"duration_s": 2.0, "cost_usd": 0.5} | more for line in lines)]


def test_the_best_is_the_least_loss_of_those_that_came_farthest(tmp_path):
    trials = draw({"seed": {"choice": [1, 2, 3, 4]}}, RECIPE, SearchSettings(num_trials=4))
    lines = [rungs((20, 0.1)), rungs((20, 3.0), (40, 0.9)), rungs((20, 2.0), (20, 1.0), (40, 0.8)), []]
    found = [outcome(*pair) for pair in zip(trials, lines, strict=True)]
    assert [each.is_whole for each in found] == [False, True, True, False]
    by_loss = judge_of(RECIPE, None)
    assert best_of(found, by_loss).number == 2
    assert [point["step"] for point in found[2].points] == [20, 40]  # the rung that was made twice counts once
    assert found[3].figures() == {"steps": 0, "duration_s": 0.0, "cost_usd": 0.0}

    from app.core.parquet import read_rows

    write_trials(found, found[2], tmp_path, title="t", judge=by_loss)
    rows = read_rows(tmp_path / "trials.parquet")
    assert [row["state"] for row in rows] == ["ended early", "whole", "whole", "ended early"]
    assert [row["heldout_loss"] for row in rows] == [0.1, 0.9, 0.8, None]
    assert {(row["metric"], row["score"] == row["heldout_loss"]) for row in rows} == {("heldout_loss", True)}
    assert len(read_rows(tmp_path / "curves.parquet")) == 5
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")


def of(recipe: str, task: str = "classification") -> TrainSettings:
    return TrainSettings.model_validate({"recipe": recipe, "head": {"task": task}})


@pytest.mark.parametrize(
    ("recipe", "asked", "judge"),
    [
        (of("sft"), None, Judge("heldout_loss", "min")),
        (of("head"), None, Judge("heldout_macro_f1", "max")),
        (of("head", "token"), None, Judge("heldout_span_f1", "max")),
        (of("head", "span"), "heldout_loss", Judge("heldout_loss", "min")),
        (of("head", "score"), "heldout_mean_absolute_error", Judge("heldout_mean_absolute_error", "min")),
        (of("dpo"), None, Judge("heldout_pair_accuracy", "max")),
    ],
)
def test_each_recipe_is_judged_by_a_figure_of_its_own(recipe, asked, judge):
    assert judge_of(recipe, asked) == judge


def test_a_figure_that_a_recipe_has_not_is_refused_and_so_is_a_loss_that_is_scaled():
    with pytest.raises(BadMetric, match=r"head \(span\).*heldout_f1 or heldout_exact_match or heldout_loss"):
        judge_of(of("head", "span"), "heldout_macro_f1")
    with pytest.raises(BadMetric, match=r"varies dpo\.beta"):
        judge_of(of("dpo"), "heldout_loss", varied=["dpo.beta"])
    assert judge_of(of("dpo"), None, varied=["dpo.beta"]).ties is None


def test_the_most_counts_then_the_least_loss_and_no_number_is_the_worst():
    trials = draw({"seed": {"choice": [1, 2, 3]}}, RECIPE, SearchSettings(num_trials=3))
    scores = [(0.8, 0.5), (0.8, 0.4), (float("nan"), 0.1)]
    found = [
        outcome(trial, rungs((40, loss), heldout_macro_f1=score))
        for trial, (score, loss) in zip(trials, scores, strict=True)
    ]
    judge = judge_of(of("head"), None)
    assert best_of(found, judge).number == 1
    assert [judge.score(each.last) for each in found] == [0.8, 0.8, float("-inf")]
    assert best_of(found, judge_of(RECIPE, None)).number == 2
    diverged = outcome(trials[0], rungs((40, float("nan"))))
    assert best_of([diverged, found[0]], judge_of(RECIPE, None)) is found[0]


@pytest.mark.parametrize("budget", ["max_minutes", "max_usd", "num_trials"])
def test_a_search_without_a_budget_is_refused_and_none_is_none(budget):
    with pytest.raises(BadSpace, match=f"{budget}.*greater than 0"):
        SearchSettings().asked(**{budget: 0})
    assert SearchSettings().asked(**{budget: None}) == SearchSettings()
    assert SearchSettings().inputs() == SearchSettings().model_dump(exclude={"metric"})


def test_sides_of_a_pair_and_windows_of_a_context_are_held_out_together():
    pairs = [Example([place], 0, row_id="") for place in range(400)]
    learned, judged = hold_out(pairs, 0.2, sides=2)
    for part in (learned, judged):
        places = [each.tokens[0] for each in part]
        assert all(b == a + 1 and a % 2 == 0 for a, b in zip(places[::2], places[1::2], strict=True))
    windows = [Example([place], 0, group=place // 3) for place in range(6000)]
    learned, judged = hold_out(windows, 0.5)
    assert 509 < len(judged) <= 512
    groups = [each.group for each in judged]
    assert {groups.count(each) for each in set(groups)} == {3}
    assert not set(groups) & {each.group for each in learned}


def test_row_ids_outlive_the_file(tmp_path):
    examples = [Example([1, 2], 1, row_id="a"), Example([3, 4], 1), Example([5, 6], 1, row_id="ü")]
    save_examples(examples, tmp_path / "e.npz")
    assert load_examples(tmp_path / "e.npz") == examples
