"""A search on the cluster: trials, the worse ended early, all on record, the best as a candidate."""

import json

import pytest

from app.core.parquet import read_rows
from app.training.search.space import SearchSettings, with_values
from app.training.settings import ModelSettings, TrainSettings
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
