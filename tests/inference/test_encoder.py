"""The encoder: the pinned files or nothing, unit vectors, meaning kept by bf16."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from app.inference import encoder as module
from app.inference.encoder import PINNED, DigestMismatch, Encoder, EncoderMissing, TokenCounter, check_files


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
