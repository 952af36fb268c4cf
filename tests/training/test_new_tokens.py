"""Tokens for a domain: which are added, that texts stay what they were, and where their rows begin."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.training.data import load_examples
from app.training.errors import CannotAddTokens
from app.training.model import new_model
from app.training.new_tokens import add_rows, add_tokens, learn_merges
from app.training.plan import EXAMPLES_FILE
from app.training.prepare import prepare
from app.training.settings import ModelSettings, NewTokenSettings, TrainSettings
from app.training.start import make_model
from app.training.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from tests.training.test_architecture import LLAMA
from tests.training.test_expand import model_of
from tests.training.test_prepare import publish

OLD = [f"what is the fee of account {n}, and who pays it?" for n in range(40)]
DOMAIN = [f"Die Zinsbescheinigung {n} liegt dem Kontoauszug bei: 12 € für {n}." for n in range(60)]
STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"
SETTINGS = NewTokenSettings(num_tokens=24, min_count=5)


def own(folder: Path) -> Path:
    save_tokenizer(train_tokenizer(OLD, vocabulary_size=320), folder, max_context_tokens=64)
    return folder


def llama(folder: Path) -> Path:
    if not STORIES.exists():
        pytest.skip("needs ../shared/models/stories260K")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(STORIES / name, folder / name)
    return folder


@pytest.fixture(scope="module", params=[own, llama], ids=lambda make: make.__name__)
def extended(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp("tokenizer"))
    before = load_tokenizer(folder)
    return before, add_tokens(folder, DOMAIN, SETTINGS), load_tokenizer(folder)


def test_frequent_words_become_fewer_tokens(extended):
    before, added, after = extended
    assert len(added.pieces) == 24
    assert min(added.pieces) == max(before.get_vocab().values()) + 1
    lengths = [len(each.encode("Die Zinsbescheinigung", add_special_tokens=False).ids) for each in (before, after)]
    assert lengths[1] < 0.6 * lengths[0]
    means = {name: sum(len(each.encode(text, add_special_tokens=False).ids) for text in DOMAIN) / 60
             for name, each in (("before", before), ("after", after))}  # fmt: skip
    assert added.tokens_per_text == means
    assert means["after"] < 0.7 * means["before"]


PARTS = st.sampled_from([*OLD[:3], *DOMAIN[:3], "Zins", "▁", " ", "€", "\n"])
TEXTS = st.one_of(st.text(max_size=60), st.lists(PARTS, max_size=6).map("".join))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_every_text_falls_into_its_old_pieces_and_decodes_as_before(extended, text):
    before, added, after = extended
    old, new = (each.encode(text, add_special_tokens=False).ids for each in (before, after))
    assert [piece for token in new for piece in added.pieces.get(token, [token])] == old
    assert after.decode(new) == before.decode(old)


def test_tokens_follow_from_texts_and_settings(tmp_path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        add_tokens(own(tmp_path / name), DOMAIN if name == "one" else DOMAIN[::-1], SETTINGS)
        made.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert made[0] == made[1]
    few = learn_merges(load_tokenizer(own(tmp_path)), DOMAIN, num_tokens=4, min_count=5)
    assert [few, []] == [learn_merges(load_tokenizer(tmp_path), DOMAIN, num_tokens=24, min_count=5)[:4],
                         learn_merges(load_tokenizer(tmp_path), DOMAIN, num_tokens=24, min_count=10_000)]  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare_rows", [0, 100])
def test_new_rows_begin_as_the_mean_of_their_old_pieces(tied, spare_rows):
    model = model_of(LLAMA | {"tie_word_embeddings": tied})  # 300 rows
    first = 300 - spare_rows
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    before = [table.weight.detach().clone() for table in tables]
    pieces = {first: [5, 6], first + 1: [5, 6, 7]}
    add_rows(model, pieces)
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    assert (tables[0].weight is tables[1].weight) == tied
    for table, old in zip(tables, before, strict=True):
        assert len(table.weight) == max(300, first + 2)
        assert torch.equal(table.weight[:first], old[:first])
        assert all(torch.allclose(table.weight[new], old[ids].mean(dim=0)) for new, ids in pieces.items())


def test_a_run_has_the_new_tokens_in_its_rows_its_model_and_its_figures(registry, tmp_path):
    base = tmp_path / "base"
    new_model(ModelSettings(config=LLAMA), vocabulary_size=320).save_pretrained(base)
    own(base)
    rows = [("fee?", text, "a", "fee", "train") for text in DOMAIN]
    plan_folder = tmp_path / "plan"
    plan = prepare(
        plan_folder, name="m", base=registry.publish("model", "base", folder=base, inputs={}), model=None,
        data=[publish(registry, tmp_path, "rows", rows)], vocabulary=(), registry=registry,
        settings=TrainSettings(new_tokens=SETTINGS),
    )  # fmt: skip
    assert plan.tokens_per_text["after"] < plan.tokens_per_text["before"]
    assert len(plan.new_tokens) == 24
    shown = {token for each in load_examples(plan_folder / EXAMPLES_FILE) for token in each.tokens}
    assert shown & set(plan.new_tokens)
    export = tmp_path / "export"
    make_model(plan).save_pretrained(export)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(plan_folder / name, export / name)
    model, tokenizer = (each.from_pretrained(export) for each in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer(DOMAIN[0], add_special_tokens=False).input_ids
    assert set(ids) & set(plan.new_tokens)
    assert tokenizer.decode(ids) == DOMAIN[0]
    with torch.no_grad():
        assert model(torch.tensor([ids])).logits.shape[-1] == plan.vocabulary_size == 320 + 24


def test_what_takes_no_tokens_is_refused(tmp_path):
    with pytest.raises(CannotAddTokens, match="lower train"):
        add_tokens(own(tmp_path), DOMAIN, NewTokenSettings(min_count=10_000))
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CannotAddTokens, match="no plain byte-pair encoding"):
        add_tokens(tmp_path, DOMAIN, SETTINGS)
    with pytest.raises(ValueError, match="left out for lora"):
        TrainSettings(recipe="lora", new_tokens={})


def test_a_base_from_elsewhere_ends_its_answers_as_before(registry, tmp_path):
    base = tmp_path / "base"
    new_model(ModelSettings(config=LLAMA | {"max_position_embeddings": 512}), vocabulary_size=512).save_pretrained(base)
    llama(base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    (base / "tokenizer.model").write_bytes(b"old")
    model = registry.publish("model", "base", folder=base, inputs={})
    data = [publish(registry, tmp_path, "rows", [("fee?", text, "a", "fee", "train") for text in DOMAIN])]
    plans = [
        prepare(tmp_path / name, name="m", base=model, model=None, data=data, vocabulary=(), registry=registry,
                settings=TrainSettings(new_tokens=new_tokens))
        for name, new_tokens in (("with", SETTINGS), ("without", None))
    ]  # fmt: skip
    assert plans[0].end_tokens == plans[1].end_tokens == (2, 7)
    assert plans[0].vocabulary_size == plans[1].vocabulary_size + 24
    assert not (tmp_path / "with" / "tokenizer.model").exists()
    lengths = [sum(len(each.tokens) for each in load_examples(tmp_path / name / EXAMPLES_FILE))
               for name in ("with", "without")]  # fmt: skip
    assert lengths[0] < 0.8 * lengths[1]
