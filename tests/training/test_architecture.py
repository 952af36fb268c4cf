"""New models from Hugging Face configurations: trained, exported, refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.inference.chat import END, SPECIAL_TOKENS
from app.training.architecture import with_architecture
from app.training.data import Batches, encode_texts
from app.training.errors import BadArchitecture
from app.training.loop import tensors
from app.training.model import AnswerLoss, new_model
from app.training.settings import ModelSettings
from app.training.tokenizer import save_tokenizer, train_tokenizer

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}
LLAMA, QWEN3, GEMMA3 = ({"model_type": kind, **SHAPE} for kind in ("llama", "qwen3", "gemma3_text"))
CONFIGS = [LLAMA, QWEN3, GEMMA3 | {"sliding_window": 16}, GPT2]
TEXTS = [f"The fee of account {n} is {n} euros a year." for n in range(10, 90)]
TOKENIZER = train_tokenizer(TEXTS, vocabulary_size=300)


def model_of(config: dict, folder: Path) -> ModelSettings:
    path = folder / "config.json"
    path.write_text(json.dumps({**config, "vocab_size": 50_000, "eos_token_id": 7, "architectures": ["X"]}))
    return with_architecture(ModelSettings(config_file=path, vocabulary_size=300))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
def test_a_model_of_a_configuration_learns_and_plain_transformers_loads_it(tmp_path, config):
    settings = model_of(config, tmp_path)
    assert settings.max_context_tokens == config.get("n_positions", 128)
    model = new_model(settings, vocabulary_size=TOKENIZER.get_vocab_size())
    assert (model.config.eos_token_id, model.config.bos_token_id) == (SPECIAL_TOKENS.index(END), None)
    assert model.config._attn_implementation == "eager"
    losses = fit(model.train())
    assert losses[-1] < 0.7 * losses[0]

    folder = tmp_path / "export"
    model.eval().save_pretrained(folder)
    save_tokenizer(TOKENIZER, folder, max_context_tokens=settings.max_context_tokens)
    again, tokenizer = (each.from_pretrained(folder) for each in (AutoModelForCausalLM, AutoTokenizer))
    input_ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(again(input_ids).logits, model(input_ids).logits, atol=1e-5)
        assert again(input_ids, labels=input_ids).loss < 0.7 * losses[0]
    assert again.get_input_embeddings().weight.shape[0] == TOKENIZER.get_vocab_size()


def fit(model) -> list[float]:
    module = AnswerLoss(model)
    batches = Batches(encode_texts(TEXTS, TOKENIZER, block_tokens=32), batch_size=8, replay_share=0, noise=0, seed=0,
                      vocabulary_size=300)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(25):
        loss = module(**tensors(batches.passes(step, rank=0, num_workers=1)[0]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_weights_follow_from_the_configuration_and_the_seed(tmp_path):
    settings = model_of(GPT2, tmp_path)
    made = [new_model(settings.model_copy(update={"seed": seed}), vocabulary_size=300) for seed in (0, 0, 1)]
    first, same, other = (model.get_input_embeddings().weight for model in made)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_inputs_hold_the_content_of_a_configuration_and_not_its_path(tmp_path):
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    one, other = (model_of(LLAMA, folder).model_dump(mode="json") for folder in (tmp_path, tmp_path / "elsewhere"))
    assert one == other
    assert (one["config"], "config_file" in one) == (LLAMA, False)
    wider = model_of(LLAMA | {"intermediate_size": 96}, tmp_path).model_dump(mode="json")
    assert wider != one
    assert with_architecture(ModelSettings.model_validate(one)).model_dump(mode="json") == one
    assert {"config", "config_file"}.isdisjoint(with_architecture(ModelSettings()).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "nonesuch"}, "model_type 'nonesuch' is unknown: name an architecture"),
        ({}, "model_type None is unknown"),
        (LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling.X"}}, "code of its own"),
        ({"model_type": "t5"}, "no model of text alone"),
        ({"model_type": "gemma3"}, "no model of text alone"),
        ({"model_type": "bert", **SHAPE}, "sees the tokens that it is to write"),
        (LLAMA | {"num_key_value_heads": 3}, "no multiple of num_key_value_heads"),
        (LLAMA | {"num_attention_heads": 5}, "multiple"),
        (GPT2 | {"n_head": 5}, "no multiple of num_attention_heads"),
        (LLAMA | {"num_hidden_layers": "two"}, "cannot be configured so"),
        (LLAMA | {"hidden_act": "nope"}, "does not fit: 'nope'"),
    ],
)
def test_a_configuration_that_cannot_be_trained_is_refused(tmp_path, config, message):
    with pytest.raises(BadArchitecture, match=message):
        model_of(config, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "is no configuration"), ("{", "is no configuration"), ("[1]", "by name")]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text:
        path.write_text(text)
    with pytest.raises(BadArchitecture, match=message):
        with_architecture(ModelSettings(config_file=path))
