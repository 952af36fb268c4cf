"""A search on the cluster: trials, the worse ended early, all on record, the best as a candidate."""

import json

import pytest

from app.core.parquet import read_rows
from app.training.search.space import SearchSettings, draw, with_values
from app.training.settings import ModelSettings, TrainSettings
from tests.training.test_heads import encoder as encoder
from tests.training.test_heads import planned as planned
from tests.training.test_trainer import rows as rows

MODEL = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, vocabulary_size=300)


def test_money_that_is_spent_ends_a_search(tmp_path):
    from app.training.plan import append_progress
    from app.training.search.trainer import Spent

    (tmp_path / "trial-0").mkdir()
    (tmp_path / "trial-1").mkdir()
    for cost in (0.1, 0.2):
        append_progress(tmp_path / "trial-0", {"event": "rung", "step": 1, "cost_usd": cost})
    assert [Spent(tmp_path, most).stop_all() for most in (None, 0.2, 0.3)] == [False, True, False]
    append_progress(tmp_path / "trial-1", {"event": "rung", "step": 1, "cost_usd": 0.1})
    assert Spent(tmp_path, 0.3).stop_all()


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("task", ["classification", "span"])
def test_a_trial_of_a_head_is_judged_by_its_own_figure_on_rows_that_it_does_not_learn(planned, registry, task):
    from app.training.data import load_examples
    from app.training.plan import EXAMPLES_FILE, HELD_OUT_FILE, read_plan
    from app.training.search.judging import judge_of
    from app.training.search.trainer import _lay_out
    from tests.training.test_loop import run

    made = planned(task, num_steps=8, batch_size=8)
    folder = made.parent / "search"
    folder.mkdir()
    made.rename(folder / "plan")
    plan = read_plan(folder / "plan")
    how = SearchSettings(num_trials=1, num_rungs=2, heldout_share=0.3)
    trials = draw({"learning_rate": {"choice": [4e-3]}}, plan.settings, how)
    (needs,) = _lay_out(folder, plan, trials, how, registry=registry)
    assert needs.num_tokens > 0
    place = folder / "trial-0"
    learned, judged = (load_examples(place / name) for name in (EXAMPLES_FILE, HELD_OUT_FILE))
    assert not {each.row_id for each in learned} & {each.row_id for each in judged}
    whole = {each.row_id for each in load_examples(folder / "plan" / EXAMPLES_FILE)}
    assert {each.row_id for each in (*learned, *judged)} == whole  # rows held out of the data stay out of it
    seen: list[dict] = []
    run(place, seen=seen)
    metric = judge_of(plan.settings, None).metric
    assert [(each["step"], 0 <= each[metric] <= 1) for each in seen] == [(4, True), (8, True)]


@pytest.mark.cluster
def test_a_search_from_a_space_to_the_best_settings(cluster, registry, rows):
    from app.training.search.trainer import search

    recipe = TrainSettings(batch_size=8, num_steps=40, num_warmup_steps=2, learning_rate=1e-2)
    how = SearchSettings(num_trials=4, num_rungs=4, heldout_share=0.4, seed=6, num_concurrent=1)
    space = {"learning_rate": {"choice": [1e-2, 1e-5, 2e-5, 3e-5]}}
    given = {"name": "s", "space": space, "recipe": recipe, "how": how, "data": [rows], "registry": registry}
    found = search(**given, model=MODEL)
    assert search(**given, model=MODEL) == found
    best = found.facts["best"]
    assert best["values"] == {"learning_rate": 1e-2}
    assert with_values(recipe, best["values"]).learning_rate == 1e-2
    assert found.facts["metric"] == "heldout_loss"
    assert (found.facts["num_trials"], best["steps"]) == (4, 40)
    assert found.facts["num_ended_early"] == 3
    table = read_rows(registry.folder(found) / "trials.parquet")
    assert sorted(json.loads(row["values"])["learning_rate"] for row in table) == [1e-5, 2e-5, 3e-5, 1e-2]
    assert min(table, key=lambda row: row["heldout_loss"])["number"] == best["number"]
    trials = registry.versions("trial")
    assert {each.digest for each in trials} < set(found.parents)
    assert [each.facts["cost_usd"] > 0 for each in trials] == [True] * 4
    assert len(list(registry.ledger.leaves("trial"))) == 4
    assert (registry.folder(found) / "trials.png").exists()
    assert not list(registry.workspace.runs_dir.iterdir())
