"""Settings refuse what cannot work; presets have the sizes that they are named for."""

import pytest

from app.training.heads.settings import HeadSettings
from app.training.settings import LARGE_MODEL, SMALL_MODEL, ModelSettings, TrainSettings


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ModelSettings(hidden_size=100, num_heads=3), "num_heads must divide"),
        (lambda: TrainSettings(batch_size=33), "multiple of train.workers.num_workers"),
        (lambda: TrainSettings(num_step=3), "did you mean 'num_steps'"),
        (lambda: TrainSettings(recipe="ppo"), "recipe"),
        (lambda: TrainSettings(pack_tokens=128), "at least train.max_row_tokens"),
        (lambda: TrainSettings(recipe="cpt", pack_tokens=32), "at least train.block_tokens"),
        (lambda: TrainSettings(recipe="lora", zero_stage=3, lora={"quantize": True}), "zero_stage must be 0, 1 or 2"),
        (lambda: HeadSettings(lora={"quantize": True}), "quantize must be left out"),
        (lambda: TrainSettings(recipe="dpo", pack_tokens=512), "left out for dpo"),
        (lambda: TrainSettings(recipe="lora", expand={}), "train.expand must be left out for lora: choose cpt or sft"),
        (lambda: TrainSettings(recipe="osft", new_tokens={}), "new_tokens must be left out for osft: choose cpt or"),
        (lambda: TrainSettings(recipe="head", attention={"sliding_window": 4}), "attention must be left out for head"),
        (lambda: TrainSettings(recipe="dpo", max_tokens_per_worker=256), "at least twice train.max_row_tokens"),
    ],
)
def test_settings_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_where_a_run_computes_does_not_change_what_it_makes():
    dear = TrainSettings.model_validate({"workers": {"usd_per_cpu_hour": 9.0, "max_failures": 1}})
    many = TrainSettings.model_validate({"workers": {"num_workers": 4}})
    assert dear.inputs() == TrainSettings().inputs()
    assert many.inputs() != TrainSettings().inputs()
    assert TrainSettings(recipe="lora").inputs()["lora"] == {"rank": 32, "alpha": 64, "dropout": 0.0}
    dora = TrainSettings(recipe="lora", lora={"use_dora": True, "target_modules": ["q_proj"]})
    assert dora.inputs()["lora"] == {
        "rank": 32,
        "alpha": 64,
        "dropout": 0.0,
        "use_dora": True,
        "target_modules": ["q_proj"],
    }
    assert TrainSettings.model_validate_json(dora.model_dump_json()) == dora
    assert TrainSettings(dpo={"beta": 0.5}).inputs() == TrainSettings().inputs()
    assert TrainSettings(recipe="dpo", dpo={"beta": 0.5}).inputs() != TrainSettings(recipe="dpo").inputs()
    assert TrainSettings(pack_tokens=256).inputs() == TrainSettings().inputs() | {"pack_tokens": 256}


@pytest.mark.parametrize(("shape", "low", "high"), [(SMALL_MODEL, 1e6, 3e6), (LARGE_MODEL, 8e6, 12e6)])
def test_sizes(shape, low, high):
    from app.training.model import new_model

    assert low < sum(p.numel() for p in new_model(shape, vocabulary_size=shape.vocabulary_size).parameters()) < high
