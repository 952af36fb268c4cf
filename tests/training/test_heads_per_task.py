"""An encoder with a head per task: what of the encoder learns, what comes out, what is saved."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModel, BertConfig, BertModel

from app.training.adapters import LoraSettings
from app.training.errors import NothingToTrain
from app.training.heads.per_task import (
    Batch,
    HeadedEncoder,
    LabelledRow,
    accuracy,
    features_of,
    load_headed,
    open_headed,
    predict,
    read_texts,
    save_headed,
)
from app.training.heads.per_task_fit import ordered_batches, rate_share, train_heads
from app.training.heads.settings import HeadSettings

SETTINGS = HeadSettings(
    batch_size=8, num_epochs=6, learning_rate=2e-3, head_learning_rate=2e-2, dtype="float32", lora=LoraSettings(rank=4)
)
COLOURS, ANIMALS = ["red", "green", "blue"], ["cat", "dog", "cow"]


def make_model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return HeadedEncoder(BertModel(config, add_pooling_layer=False), dtype="float32")


def make_rows(num=60, task="t"):
    random = np.random.default_rng(0)
    labels = random.integers(2, size=num).tolist()
    return [
        LabelledRow(task, [1, *(2 + 20 * label + random.integers(20, size=random.integers(3, 9))).tolist()], label)
        for label in labels
    ]


def state(model):
    return {name: value.clone() for name, value in model.encoder.state_dict().items()}


@pytest.mark.parametrize(("base", "learns"), [("frozen", False), ("adapted", True), ("trained", True)])
def test_what_of_the_encoder_learns(base, learns):
    model, rows = make_model(), make_rows()
    model.add_head("t", ["low", "high"])
    before = state(model)
    train_heads(model, rows, SETTINGS.model_copy(update={"base": base}))
    after = state(model)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert bool(changed) == learns
    assert "embeddings.word_embeddings.weight" not in changed
    assert ("encoder.layer.0.output.LayerNorm.weight" in changed) == (base == "trained")
    assert accuracy(model, rows) > 0.8


def test_the_same_seed_gives_the_same_head_and_another_order_another():
    def learned(seed):
        model = make_model()
        model.add_head("t", ["low", "high"])
        train_heads(model, make_rows(), SETTINGS.model_copy(update={"seed": seed, "num_epochs": 1}))
        return model.head("t").weight

    assert torch.equal(learned(0), learned(0))
    assert not torch.equal(learned(0), learned(1))


def test_a_batch_of_several_tasks_sums_the_losses_of_its_rows():
    model = make_model()
    model.add_head("t", ["low", "high"])
    model.add_head("a.b/c", ["x", "y", "z"])
    rows = [LabelledRow("t", [1, 5, 6], 1), LabelledRow("a.b/c", [1, 7, 8, 9, 4], 2), LabelledRow("t", [1, 9], 0)]
    apart = sum(model.loss(Batch.of([row])) for row in rows)
    assert torch.allclose(model.loss(Batch.of(rows)), apart, atol=1e-5)
    assert predict(model, rows).tolist() == [int(predict(model, [row])[0]) for row in rows]


def test_what_a_row_is_to_keep_is_weighed_beside_its_label():
    model = make_model()
    model.add_head("t", ["low", "high"])
    model.add_head("u", ["x", "y"])
    row = LabelledRow("t", [1, 5, 6], 1)
    plain = Batch.of([row, replace(row, ids=[1, 7])])
    kept = Batch.of([replace(row, said={"t": [1.0, 2.0], "u": [3.0, -1.0]}), replace(row, ids=[1, 7])])
    apart = (1.0 + 4.0) / 2 + (9.0 + 1.0) / 2  # a new head says 0
    for weight in (0.0, 0.5):
        more = model.loss(kept, keep_weight=weight) - model.loss(plain)
        assert float(more.detach()) == pytest.approx(weight * apart, abs=1e-5)


def test_judging_attends_by_the_fused_kernel_and_leaves_the_encoder_as_it_was(monkeypatch):
    model, used = make_model(), []
    model.encoder.set_attn_implementation("eager")
    model.encoder.register_forward_pre_hook(lambda encoder, _: used.append(encoder.config._attn_implementation))
    rows = make_rows(4)
    assert features_of(model, rows).shape == (4, 24)
    plain = model.features(Batch.of(rows))
    assert set(used[:-1]) == {"sdpa"}
    assert used[-1] == "eager"
    assert torch.allclose(features_of(model, rows), plain, atol=1e-4)


def test_an_epoch_shows_each_row_once_in_batches_of_like_length():
    rows = make_rows(100)
    batches = ordered_batches(rows, SETTINGS.model_copy(update={"num_epochs": 2}), name="t")
    shown = [id(row) for batch in batches for row in batch]
    assert sorted(shown[:100]) == sorted(map(id, rows)) == sorted(shown[100:])
    assert shown[:100] != shown[100:]
    padded = sum(max(len(row.ids) for row in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * 2 * sum(len(row.ids) for row in rows)


def test_no_rows_are_refused():
    with pytest.raises(NothingToTrain, match="no rows"):
        train_heads(make_model(), [], SETTINGS)
    with pytest.raises(ValueError, match="at least one row"):
        Batch.of([])


def test_the_rate_rises_and_falls_to_nearly_nothing():
    shares = [rate_share(step, 20, warmup_share=0.2) for step in range(20)]
    assert shares[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(a > b > 0 for a, b in pairwise(shares[3:]))
    assert rate_share(0, 1, warmup_share=0.1) == 1.0


def test_texts_are_cut_at_their_end():
    words = {word: n for n, word in enumerate(["[UNK]", *COLOURS, *ANIMALS])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    rows = read_texts(["red cat", "green green dog cow blue"], [0, 1], task="t", tokenizer=tokenizer, max_tokens=3)
    assert [(row.ids, row.label) for row in rows] == [([1, 4], 0), ([2, 2, 5], 1)]


def test_what_is_saved_is_an_encoder_of_transformers_with_its_heads(tmp_path):
    model, rows = make_model(), make_rows()
    model.add_head("t", ["low", "high"])
    model.add_head("a.b/c", ["x", "y", "z"])
    train_heads(model, rows, SETTINGS.model_copy(update={"base": "adapted", "num_epochs": 1}))
    save_headed(model, tmp_path)
    opened = open_headed(tmp_path, SETTINGS)
    assert opened.labels == model.labels
    assert np.array_equal(predict(opened, rows), predict(model, rows))
    plain = AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False).state_dict()
    assert all(torch.equal(plain[name], value) for name, value in state(model).items())
    assert load_headed(tmp_path / "encoder", SETTINGS).labels == {}
