"""Recipes of tasks that are learned in turn, what is replayed, and the figures of what was forgotten."""

import pytest

from app.training.adapters import LoraSettings
from app.training.errors import CannotTrain
from app.training.matrix import Matrix, draw_matrices, zero_shot_transfer
from app.training.presets import HEAD, SMALL_CONTINUAL, SMALL_LORA, SMALL_OSFT
from app.training.replay import remembered
from app.training.sequence import SequenceSettings, kept_share, recipe_at
from app.training.settings import TrainSettings

MATRIX = Matrix(["a", "b", "c"], [[0.9], [0.7, 0.8], [0.8, 0.6, 0.5]])
HOW = SequenceSettings(keep_first=0.4, keep_last=0.8, rewarm_share=0.5)


def test_the_figures_are_those_of_their_sources():
    assert MATRIX.average() == pytest.approx((0.8 + 0.6 + 0.5) / 3)
    assert MATRIX.forgetting() == pytest.approx(((0.9 - 0.8) + (0.8 - 0.6)) / 2)
    assert MATRIX.backward_transfer() == pytest.approx(((0.8 - 0.9) + (0.6 - 0.8)) / 2)
    assert MATRIX.forward_transfer({"a": 0, "b": 0.7, "c": 0.7}) == pytest.approx(((0.8 - 0.7) + (0.5 - 0.7)) / 2)


def test_forgetting_counts_from_the_best_that_a_task_ever_was():
    risen = Matrix(["a", "b", "c"], [[0.5], [0.9, 0.8], [0.7, 0.9, 0.5]])
    assert risen.forgetting() == pytest.approx(((0.9 - 0.7) + (0.8 - 0.9)) / 2)
    assert risen.backward_transfer() == pytest.approx(((0.7 - 0.5) + (0.9 - 0.8)) / 2)


def test_a_single_task_forgets_nothing():
    alone = Matrix(["a"], [[0.5]])
    assert (alone.average(), alone.forgetting(), alone.backward_transfer()) == (0.5, 0.0, 0.0)
    assert alone.forward_transfer({"a": 0.5}) == 0.0


def test_what_the_tasks_before_taught_of_a_task_is_counted_from_the_start():
    assert zero_shot_transfer([0.1, 0.5, 0.4], [0.0, 0.2, 0.3]) == pytest.approx(0.2)
    assert zero_shot_transfer([0.5], [0.1]) == 0.0


def test_matrices_are_drawn_beside_one_another(tmp_path):
    draw_matrices({"one": MATRIX, "two": Matrix(["a"], [[0.5]])}, tmp_path / "m.png")
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("place", "num", "wanted"), [(0, 3, 0.4), (1, 3, 0.6), (2, 3, 0.8), (0, 1, 0.8)])
def test_what_is_kept_rises_to_the_last_task(place, num, wanted):
    assert kept_share(place, num, first=0.4, last=0.8) == pytest.approx(wanted)


def test_a_task_s_recipe_has_its_own_rate_and_share():
    recipes = [recipe_at(SMALL_OSFT, HOW, place=place, num_tasks=3) for place in range(3)]
    assert [each.osft.unfreeze_rank_ratio for each in recipes] == pytest.approx([0.6, 0.4, 0.2])
    rate = SMALL_OSFT.learning_rate
    assert [each.learning_rate for each in recipes] == pytest.approx([rate, rate / 2, rate / 2])


def test_without_a_share_of_its_own_a_recipe_stays_as_it_is():
    assert recipe_at(SMALL_CONTINUAL, SequenceSettings(), place=1, num_tasks=3) == SMALL_CONTINUAL


def test_adapters_are_merged_after_each_task():
    assert recipe_at(SMALL_LORA, HOW, place=0, num_tasks=2).lora.merge
    with pytest.raises(CannotTrain, match="a head writes no answer"):
        recipe_at(HEAD, HOW, place=0, num_tasks=2)
    with pytest.raises(ValueError, match="stage 3 has the weights in parts"):
        recipe_at(SMALL_LORA.model_copy(update={"zero_stage": 3}), HOW, place=0, num_tasks=2)


def test_what_is_kept_of_a_sequence_may_not_fall():
    with pytest.raises(ValueError, match="only grows"):
        SequenceSettings(keep_first=0.8, keep_last=0.5)


def test_settings_that_came_later_count_when_they_are_set():
    plain = TrainSettings().inputs()
    assert not {"replay_rows", "replay_by", "pack_tokens"} & plain.keys()
    assert "merge" not in plain["lora"]
    told = TrainSettings(replay_rows=9, replay_by="cluster", lora=LoraSettings(merge=True)).inputs()
    assert (told["replay_rows"], told["replay_by"], told["lora"]["merge"]) == (9, "cluster", True)


ROWS = [{"question": f"Who leads the {team} team in week {n}?"} for team in ("sales",) for n in range(40)]
RARE = [{"question": f"How many litres does the {kind} tank hold?"} for kind in ("red", "blue", "green", "old")]


def test_a_uniform_sample_is_remembered_in_its_order():
    kept = remembered(ROWS, num_rows=10, by="reservoir", seed=3)
    assert len(kept) == 10
    assert [ROWS.index(row) for row in kept] == sorted(ROWS.index(row) for row in kept)
    assert kept == remembered(ROWS, num_rows=10, by="reservoir", seed=3)
    assert kept != remembered(ROWS, num_rows=10, by="reservoir", seed=4)
    assert remembered(ROWS, num_rows=None, by="reservoir", seed=3) == ROWS
    assert remembered(ROWS, num_rows=99, by="cluster", seed=3) == ROWS


def test_by_clusters_what_is_rare_is_not_lost():
    def num_rare(by):
        return sum(row in RARE for row in remembered([*ROWS, *RARE], num_rows=16, by=by, seed=0))

    assert num_rare("cluster") == len(RARE) > num_rare("reservoir")
