"""The cross-encoder: transformers' own scores, in any order of the texts; its files or nothing."""

from pathlib import Path

import numpy as np
import pytest

from app.inference.bert import Bert, read_shape, read_weights
from app.inference.encoder import DigestMismatch, EncoderUnusable
from app.inference.reranker import Reranker, reranker_digest
from tests.inference.tiny_bert import write_encoder

QUESTION = "when does the school open?"
TEXTS = ["annual fee " * 40, "", "the school is closing in summer", "fee", "a card may be lost"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("reranker"), num_layers=2, num_labels=1, scale=6)


def test_scores_are_those_of_transformers(folder: Path):
    import torch
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **names)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    coded = tokenizer([QUESTION] * 4, TEXTS[1:], padding=True, return_tensors="pt", return_token_type_ids=True)
    with torch.inference_mode():
        expected = model(**coded).logits[:, 0].numpy()
    assert np.ptp(expected) > 0.1
    reranker = Reranker(folder)
    assert reranker.scores(QUESTION, TEXTS[1:]).dtype == np.float32
    shape = read_shape(folder)
    reranker._model = Bert(read_weights(folder), dtype=torch.float32, num_heads=shape.num_heads, epsilon=shape.epsilon)
    assert np.allclose(reranker.scores(QUESTION, TEXTS[1:]), expected, atol=1e-4)


def test_neither_order_nor_company_changes_a_score(folder: Path):
    reranker = Reranker(folder)
    scores = reranker.scores(QUESTION, TEXTS)
    order = [3, 1, 4, 0, 2]
    assert np.allclose(reranker.scores(QUESTION, [TEXTS[place] for place in order]), scores[order], atol=1e-3)
    many = reranker.many([QUESTION, "fee?"], [TEXTS[:3], TEXTS[3:]])
    assert [len(each) for each in many] == [3, 2]
    assert np.allclose(many[0], scores[:3], atol=1e-3)
    assert reranker.scores(QUESTION, []).shape == (0,)


def test_a_long_pair_is_cut(folder: Path):
    assert np.isfinite(Reranker(folder).scores("fee " * 500, ["fee " * 500])).all()


def test_only_the_files_of_the_digest_are_loaded(folder: Path, tmp_path: Path):
    digest = reranker_digest(folder)
    assert Reranker(folder, digest=digest).digest == digest
    other = write_encoder(tmp_path / "other", num_labels=1, seed=1)
    with pytest.raises(DigestMismatch, match="restore"):
        Reranker(other, digest=digest)
    for labels, said in ((None, "cross-encoder"), (2, "2 scores")):
        with pytest.raises(EncoderUnusable, match=said):
            Reranker(write_encoder(tmp_path / f"labels-{labels}", num_labels=labels))
    (other / "tokenizer.json").unlink()
    with pytest.raises(EncoderUnusable, match=r"no tokenizer\.json"):
        Reranker(other)
