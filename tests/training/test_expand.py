"""More blocks that change nothing at first, another pattern of attention: what is made, trained and exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from app.training.errors import CannotExpand
from app.training.expand import attending, check_expansion, expand, order_of, pattern
from app.training.model import load_model, new_model
from app.training.plan import Plan
from app.training.settings import AttentionSettings, ExpandSettings, ModelSettings, TrainSettings
from app.training.shape import num_trained, read_shape, shape_of
from app.training.start import make_model
from tests.training.test_architecture import GEMMA3, GPT2, LLAMA, QWEN3
from tests.training.test_loop import run, write_run

MISTRAL = {**LLAMA, "model_type": "mistral"}
TOKENS = torch.arange(40)[None] * 7 % 300


@torch.no_grad()
def says(model) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


def model_of(config: dict, folder: Path | None = None):
    """A model whose every weight says something, norms and biases included."""
    model = new_model(ModelSettings(config=config), vocabulary_size=300)
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    if folder:
        model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("num", "given", "order"),
    [
        (4, {"num_blocks": 2}, "0 1 1' 2 3 3'"),
        (4, {"num_blocks": 4}, "0 0' 1 1' 2 2' 3 3'"),
        (5, {"num_blocks": 2}, "0 1 2 2' 3 4 4'"),
        (2, {"num_blocks": 3}, "0 0' 1 1' 1'"),
        (1, {"num_blocks": 2}, "0 0' 0'"),
        (3, {"num_blocks": 2, "place": "top"}, "0 1 2 1' 2'"),
        (1, {"num_blocks": 2, "place": "top"}, "0 0' 0'"),
    ],
)
def test_where_new_blocks_stand(num, given, order):
    found = order_of(num, ExpandSettings(**given))
    assert " ".join(f"{source}{chr(39) * is_new}" for source, is_new in found) == order


@pytest.mark.parametrize("config", [LLAMA, QWEN3, GEMMA3, GPT2, MISTRAL], ids=lambda config: config["model_type"])
def test_an_expanded_model_says_what_its_base_says_and_plain_transformers_loads_it(tmp_path, config):
    base = model_of(config)
    before, num = says(base), sum(map(torch.numel, base.parameters()))
    grown = expand(base, ExpandSettings(num_blocks=2))
    assert torch.equal(says(grown), before)
    assert sum(map(torch.numel, grown.parameters())) > num
    assert grown.config.num_hidden_layers == 4
    trained = {name.split(".")[2] for name, each in grown.named_parameters() if each.requires_grad}
    assert trained == {"1", "3"}
    for parameter in grown.parameters():  # as if it had learned
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    grown.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.allclose(says(again), says(grown), atol=1e-5)
    assert not torch.allclose(says(again), before, atol=1e-2)
    with torch.no_grad():
        cached = again.generate(TOKENS[:, :8], max_new_tokens=6, do_sample=False, pad_token_id=0)
        plain = again.generate(TOKENS[:, :8], max_new_tokens=6, do_sample=False, pad_token_id=0, use_cache=False)
    assert torch.equal(cached, plain)


def test_what_an_expanded_model_will_weigh_is_known_before(tmp_path):
    model_of(LLAMA, tmp_path / "base")
    settings = TrainSettings(expand={"num_blocks": 2})
    plan = Plan(name="m", settings=settings, base_folder=tmp_path / "base", vocabulary_size=310, num_rows=1,
                new_tokens={300: [5, 6], 301: [5, 7]})  # fmt: skip
    model = make_model(plan)
    model.save_pretrained(tmp_path / "grown")
    real, foreseen = read_shape(tmp_path / "grown"), shape_of(plan)
    assert foreseen == real
    assert num_trained(foreseen, settings) == sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert foreseen.num_parameters > read_shape(tmp_path / "base").num_parameters


def test_copies_that_change_something_are_refused(monkeypatch):
    monkeypatch.setattr("app.training.expand.OUTPUTS", frozenset({"o_proj"}))
    with pytest.raises(CannotExpand, match="change what it says"):
        expand(model_of(LLAMA), ExpandSettings())


def test_only_the_new_blocks_learn_unless_all_shall(tmp_path, one_worker):
    base = tmp_path / "base"
    model_of(LLAMA, base)
    before = load_file(base / "model.safetensors")
    for name, only_new in (("new", True), ("all", False)):
        given = {"base": base, "dtype": "float32", "learning_rate": 1e-2, "zero_stage": 3 if only_new else 1}
        given["expand"] = {"num_blocks": 1, "train_only_new": only_new}
        checkpoints = run(write_run(tmp_path / name, **given))
        after = load_file(checkpoints[12] / "export" / "model.safetensors")
        assert len({each.split(".")[2] for each in after if "layers" in each}) == 3
        kept = [torch.equal(before[each], after[each]) for each in before]
        assert all(kept) if only_new else not any(kept)
        assert after["model.layers.2.self_attn.o_proj.weight"].abs().max() > 1e-3
        summary = json.loads((checkpoints[12] / "summary.json").read_text())
        assert (summary["num_trained_parameters"] < summary["num_parameters"]) == only_new
        assert summary["curve"][-1]["loss"] < summary["curve"][0]["loss"]


def reach(model) -> int:
    """How many tokens, its own place included, say something else when the first token is another one."""
    before = says(model)
    with torch.no_grad():
        after = model(input_ids=torch.cat([TOKENS[:, :1] + 1, TOKENS[:, 1:]], dim=1)).logits
    return int((~torch.isclose(before, after, atol=1e-6).all(dim=-1)).sum())


@pytest.mark.parametrize("config", [QWEN3, GEMMA3, MISTRAL], ids=lambda config: config["model_type"])
def test_a_sliding_window_limits_what_is_seen(tmp_path, config):
    whole = config | ({"layer_types": ["full_attention"] * 2} if config is GEMMA3 else {"sliding_window": None})
    model_of(whole, tmp_path / "base")
    window = AttentionSettings(sliding_window=4, full_every=0)
    model = load_model(tmp_path / "base", config=attending(tmp_path / "base", window))
    after = says(model)
    assert [reach(each) for each in (load_model(tmp_path / "base"), model)] == [40, 2 * (4 - 1) + 1]
    model.save_pretrained(tmp_path / "export")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "export", attn_implementation="eager")
    assert torch.allclose(says(again), after, atol=1e-5)
    if config is not MISTRAL:
        mixed = attending(tmp_path / "base", AttentionSettings(sliding_window=4, full_every=2))
        assert mixed.layer_types == ["sliding_attention", "full_attention"]
        grown = expand(load_model(tmp_path / "base", config=mixed), ExpandSettings(num_blocks=2))
        assert grown.config.layer_types == ["sliding_attention"] * 2 + ["full_attention"] * 2


def test_the_pattern_of_attention():
    assert [kind[0] for kind in pattern(6, 3)] == list("ssfssf")


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (None, {"expand": {}}, "train.expand changes a base: name one"),
        (LLAMA, {"attention": {"sliding_window": 4}}, "llama has no sliding window"),
        (GPT2, {"attention": {"sliding_window": 4}}, "gpt2 has no sliding window"),
        (MISTRAL, {"attention": {"sliding_window": 4, "full_every": 2}}, "one window for all blocks"),
    ],
)
def test_what_cannot_be_done_to_a_base_is_refused_before_a_run(tmp_path, config, given, message):
    if config:
        model_of(config, tmp_path)
    with pytest.raises(CannotExpand, match=message):
        check_expansion(TrainSettings(**given), tmp_path if config else None)


@pytest.mark.parametrize("name", ["expand", "attention"])
def test_adapters_do_not_stand_on_a_changed_base(name):
    with pytest.raises(ValueError, match="left out for lora"):
        TrainSettings(recipe="lora", **{name: {"sliding_window": 4} if name == "attention" else {}})
    assert TrainSettings(**{name: None}).inputs() == TrainSettings().inputs()
