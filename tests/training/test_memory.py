"""Less memory for more time: the same weights, a known estimate, and refusals where something is not there."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from app.training.budget import advice
from app.training.errors import CannotTrain
from app.training.estimate import estimate
from app.training.loop import deepspeed_config
from app.training.memory import MemorySettings
from app.training.plan import read_plan
from app.training.savings import fused, offloading, save_memory
from app.training.settings import TrainSettings
from tests.training.test_loop import MODEL, run, write_run


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("stage", [1, 3])
def test_activations_that_are_computed_again_give_the_same_weights(tmp_path, monkeypatch, stage):
    calls = []
    forward = torch.nn.functional.silu
    monkeypatch.setattr(torch.nn.functional, "silu", lambda *given: calls.append(1) or forward(*given))
    tables, counts = [], []
    for name, again in (("kept", False), ("again", True)):
        given = {"num_steps": 4, "num_checkpoints": 1, "zero_stage": stage, "dtype": "float32"}
        folder = write_run(tmp_path / name, memory={"checkpoint_activations": again}, **given)
        calls.clear()
        tables.append(load_file(run(folder)[4] / "export" / "model.safetensors"))
        counts.append(len(calls))
    assert counts[1] == counts[0] + 4 * MODEL.num_layers  # once more a step and block
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])


def test_the_estimate_knows_what_is_computed_again(tmp_path):
    found = []
    for name, again in (("kept", False), ("again", True)):
        folder = write_run(tmp_path / name, memory={"checkpoint_activations": again})
        plan = read_plan(folder)
        deep = plan.model_copy(update={"model": MODEL.model_copy(update={"num_layers": 8})})
        found.append(estimate(deep, folder))
    kept, again = found
    assert again.memory.activations < kept.memory.activations / 3
    assert (again.memory.optimizer, again.num_tokens) == (kept.memory.optimizer, kept.num_tokens)
    assert 1.1 < again.flops / kept.flops < 1.34
    assert "set train.memory.checkpoint_activations" in advice(replaced(kept.memory), TrainSettings())
    saving = TrainSettings(memory=MemorySettings(checkpoint_activations=True))
    assert "checkpoint_activations" not in advice(replaced(kept.memory), saving)


def replaced(memory):
    return type(memory)(**{**vars(memory), "activations": 10**12})


def test_main_memory_is_used_from_a_gpu_alone():
    settings = TrainSettings(zero_stage=3, memory=MemorySettings(offload_optimizer=True, offload_parameters=True))
    assert offloading(settings.memory, has_gpu=False) == {}
    assert "zero_force_ds_cpu_optimizer" not in deepspeed_config(settings, num_workers=1)
    config = deepspeed_config(settings, num_workers=1, on_gpu=True)
    aside = {"device": "cpu", "pin_memory": True}
    assert config["zero_optimization"] == {
        "stage": 3, "overlap_comm": False, "offload_optimizer": aside, "offload_param": aside
    }  # fmt: skip
    assert config["zero_force_ds_cpu_optimizer"] is False
    assert deepspeed_config(TrainSettings(), num_workers=1, on_gpu=True) == deepspeed_config(
        TrainSettings(), num_workers=1
    )


@pytest.mark.parametrize(
    ("memory", "stage", "fault"),
    [
        ({"offload_parameters": True}, 2, "zero_stage must be 3 for train.memory.offload_parameters"),
        ({"offload_optimizer": True}, 0, "zero_stage must be 1, 2 or 3 for train.memory.offload_optimizer"),
        ({"compile": True}, 3, "zero_stage must be 0, 1 or 2 for train.memory.compile"),
        ({"liger": "maybe"}, 1, "liger"),
    ],
)
def test_what_does_not_go_together_is_refused(memory, stage, fault):
    with pytest.raises(ValueError, match=fault):
        TrainSettings.model_validate({"memory": memory, "zero_stage": stage})


def test_what_is_projected_is_not_offloaded():
    with pytest.raises(ValueError, match=r"offload_\* must be left out for osft"):
        TrainSettings.model_validate({"recipe": "osft", "memory": {"offload_optimizer": True}})


def model(**changes):
    compiled = []
    given = {"supports_gradient_checkpointing": False, "config": SimpleNamespace(model_type="llama")}
    given["base_model"] = SimpleNamespace(compile=lambda **how: compiled.append(how))
    return SimpleNamespace(**{**given, **changes}), compiled


def test_kernels_are_used_where_they_are_and_named_where_they_are_not(monkeypatch):
    bare, _ = model()
    wanted, if_there = MemorySettings(liger="on"), MemorySettings()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not fused(bare, if_there, has_gpu=True)
    with pytest.raises(CannotTrain, match="liger is on, but liger-kernel is not installed"):
        fused(bare, wanted, has_gpu=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert not fused(bare, if_there, has_gpu=False)
    with pytest.raises(CannotTrain, match="there is no GPU"):
        fused(bare, wanted, has_gpu=False)
    known = SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None})
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel.transformers", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel.transformers.monkey_patch", known)
    assert fused(bare, if_there, has_gpu=True)
    assert not fused(bare, MemorySettings(liger="off"), has_gpu=True)
    with pytest.raises(CannotTrain, match="does not know gpt2"):
        fused(model(config=SimpleNamespace(model_type="gpt2"))[0], wanted, has_gpu=True)


def test_a_model_is_compiled_for_every_length_and_one_that_cannot_says_so():
    bare, compiled = model()
    save_memory(bare, MemorySettings(compile=True, liger="off"), zero_stage=1, has_gpu=False)
    assert compiled == [{"dynamic": True}]
    with pytest.raises(CannotTrain, match="SimpleNamespace cannot: leave"):
        save_memory(bare, MemorySettings(checkpoint_activations=True), zero_stage=1, has_gpu=False)


def test_only_what_is_asked_for_is_an_input():
    assert "memory" not in TrainSettings().inputs()
    assert TrainSettings(memory=MemorySettings(compile=True)).inputs()["memory"]["compile"]
