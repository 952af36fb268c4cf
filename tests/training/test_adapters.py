"""Adapters that cannot be made are refused before a run starts."""

import importlib.util

import pytest

from app.training.adapters import LoraSettings, check_adapters, layers_of
from app.training.errors import CannotAdapt
from app.training.model import new_model
from app.training.settings import ModelSettings

SHAPE = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    new_model(SHAPE, vocabulary_size=300).save_pretrained(folder)
    return folder


def test_the_layers_of_a_base(base):
    assert {name.rpartition(".")[2] for name in layers_of(base)} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_modules": ("q_proj", "query")}, "no layer 'query': name some of down_proj, gate_proj"),
        ({"target_modules": ("proj",)}, "no layer 'proj'"),
        ({"quantize": True}, "quantize needs"),
    ],
)
def test_adapters_that_have_no_place_are_refused(base, given, message, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CannotAdapt, match=message):
        check_adapters(LoraSettings(**given), base)


@pytest.mark.parametrize("targets", [None, ("q_proj",), ("self_attn.q_proj",), ("model.layers.0.mlp.up_proj",)])
def test_adapters_that_have_a_place(base, targets):
    check_adapters(LoraSettings(target_modules=targets), base)


def test_four_bits_need_both_a_library_and_a_gpu(base, monkeypatch):
    import torch

    found = {"bitsandbytes": object()}
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found[name] if name in found else real(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CannotAdapt, match="there is none"):
        check_adapters(LoraSettings(quantize=True), base)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_adapters(LoraSettings(quantize=True), base)
    found["bitsandbytes"] = None
    with pytest.raises(CannotAdapt, match="not installed"):
        check_adapters(LoraSettings(quantize=True), base)
