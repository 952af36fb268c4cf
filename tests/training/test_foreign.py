"""Base models of other architectures through the loop and out again: what plain transformers and peft load answers."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from app.core.parquet import read_rows, write_rows
from app.inference.engine import TransformersEngine
from app.training import bases
from app.training.bases import import_base
from app.training.errors import CannotTrain, TooLong
from app.training.foreign import check_held, check_packs, heads_plainly
from app.training.look import look
from app.training.model import AnswerLoss, load_model
from app.training.osft import chosen_weights
from app.training.prepare import prepare
from app.training.settings import TrainSettings
from tests.training.test_loop import run
from tests.training.tiny_bases import CHATML, FORGETFUL, MARKED, STRICT, make_base

pytestmark = pytest.mark.usefixtures("one_worker")

ROWS = [
    {"question": "what is the annual fee?", "answer": "12 euros"},
    {"question": "who chairs the audit committee?", "answer": "Ruth Calder"},
]
RUNS = {
    "llama sft, no template": ("llama", None, {"recipe": "sft"}),
    "llama cpt": ("llama", None, {"recipe": "cpt", "block_tokens": 16}),
    "qwen2 lora": ("qwen2", CHATML, {"recipe": "lora"}),
    "qwen3 osft, zero 3": ("qwen3", MARKED, {"recipe": "osft", "zero_stage": 3, "osft": {"unfreeze_rank_ratio": 0.8}}),
    "qwen3 sft, packed": ("qwen3", FORGETFUL, {"recipe": "sft", "pack_tokens": 128}),
    "gpt2 sft, zero 2": ("gpt2", None, {"recipe": "sft", "zero_stage": 2}),
    "gpt2 lora": ("gpt2", CHATML, {"recipe": "lora"}),
    "gpt2 osft": ("gpt2", STRICT, {"recipe": "osft", "osft": {"unfreeze_rank_ratio": 0.8}}),
    "gemma2 sft": ("gemma2", STRICT, {"recipe": "sft", "num_steps": 120}),
}


@pytest.fixture(autouse=True)
def near(monkeypatch):
    """A folder is looked at in this process, which is quicker."""
    monkeypatch.setattr(bases, "ask", lambda folder, *, named, timeout_s: look(folder))


def publish_base(registry, folder: Path, kind: str, template: str | None, **changes):
    return import_base(make_base(folder, kind, template=template, **changes), kind, registry=registry, tracked=False)


def publish_rows(registry, folder: Path, rows: list[dict]):
    folder.mkdir()
    turns = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    kinds = {name: pa.string() for name in ("row_id", "question", "answer", "rejected")} | {"history": turns}
    write_rows(folder / "rows.parquet", [{**dict.fromkeys(kinds), **row} for row in rows], schema=pa.schema(kinds))
    return registry.publish("dataset", "rows", folder=folder, inputs={})


def prepared(registry, folder: Path, base, rows, **changes) -> Path:
    given = {"num_steps": 60, "num_warmup_steps": 2, "num_checkpoints": 1, "batch_size": 2, "learning_rate": 1e-2}
    given |= {"dtype": "float32", "max_row_tokens": 128, "workers": {"num_workers": 1}, **changes}
    settings = TrainSettings.model_validate(given)
    how = {"model": None, "vocabulary": (), "registry": registry, "settings": settings}
    prepare(folder, name="m", base=base, data=[publish_rows(registry, folder.parent / "rows", rows)], **how)
    return folder


def trained(registry, folder: Path, base, **changes) -> Path:
    """The folder that a run publishes: weights and tokenizer."""
    place = prepared(registry, folder / "plan", base, ROWS, **changes)
    ((_, checkpoint),) = run(place).items()
    for file in place.glob("*token*.json"):
        shutil.copy(file, checkpoint / "export" / file.name)
    return checkpoint / "export"


def plain_answer(folder: Path, question: str, adapter: Path | None = None) -> str:
    """What somebody without Signalbox gets."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    asked = [{"role": "user", "content": question}]
    given = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    ends = TransformersEngine(folder)._format.end_tokens if adapter else None
    made = model.generate(
        **given, max_new_tokens=24, do_sample=False, **({"eos_token_id": sorted(ends)} if ends else {})
    )
    said = tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return said.rpartition("</think>")[2].strip()


@pytest.mark.parametrize("name", RUNS)
def test_a_base_from_elsewhere_learns_and_goes_out_as_a_plain_folder(registry, tmp_path, name):
    from transformers import AutoTokenizer

    kind, template, changes = RUNS[name]
    is_adapter = changes["recipe"] == "lora"
    wide = {"initializer_range": 0.2} if is_adapter or kind == "gpt2" else {}  # what is frozen must be of some use
    base = publish_base(registry, tmp_path / "base", kind, template, **wide)
    folder = trained(registry, tmp_path, base, **changes)
    whole, adapter = (registry.folder(base), folder) if is_adapter else (folder, None)
    if changes["recipe"] == "cpt":
        tokenizer = AutoTokenizer.from_pretrained(whole)
        made = load_model(whole).generate(
            tokenizer.encode("who chairs", return_tensors="pt"), max_new_tokens=30, do_sample=False
        )
        assert tokenizer.decode(made[0]) == "who chairs the audit committee?<|endoftext|>"
        return
    engine = TransformersEngine(whole, adapter=adapter)
    for row, answer in zip(ROWS, engine.generate([row["question"] for row in ROWS]), strict=True):
        assert (answer.text, answer.finish_reason) == (row["answer"], "stop")
    assert plain_answer(whole, ROWS[1]["question"], adapter) == ROWS[1]["answer"]
    if not is_adapter:
        shape = (folder / "config.json").read_bytes()
        assert shape == (tmp_path / "base" / "config.json").read_bytes()


@pytest.mark.parametrize("adapters", [False, True])
def test_a_base_from_elsewhere_learns_which_answer_is_better(registry, tmp_path, adapters):
    """The better answers are those that :data:`ROWS` give; what the template refuses of a pair takes both sides out."""
    base = publish_base(registry, tmp_path / "base", "qwen3", STRICT)
    others = reversed([row["answer"] for row in ROWS])
    pairs = [{**row, "rejected": other} for row, other in zip(ROWS, others, strict=True)]
    odd = {**pairs[0], "row_id": "odd", "history": [{"role": "assistant", "content": "I speak first."}]}
    how = {"recipe": "dpo", "dpo": {"adapters": adapters}, "num_steps": 30}
    place = prepared(registry, tmp_path / "plan", base, [*pairs, odd], **how)
    assert {row["row_id"] for row in read_rows(place / "rejects.parquet")} == {"odd"}
    ((_, checkpoint),) = run(place).items()
    curve = json.loads((checkpoint / "summary.json").read_text())["curve"]
    assert (curve[0]["pair_accuracy"], curve[-1]["pair_accuracy"]) == (0.0, 1.0)
    assert curve[-1]["reward_margin"] > 0.1
    assert (checkpoint / "export" / "adapter_config.json").exists() == adapters
    assert (checkpoint / "export" / "config.json").exists() != adapters


def test_what_a_template_refuses_is_a_reject_with_its_words(registry, tmp_path):
    base = publish_base(registry, tmp_path / "base", "qwen3", STRICT)
    turns = [{"role": "assistant", "content": "I speak first."}]
    rows = [*ROWS, {"row_id": "odd", "question": "fee?", "answer": "12", "history": turns}]
    place = prepared(registry, tmp_path / "plan", base, rows)
    rejects = read_rows(place / "rejects.parquet")
    assert [row["row_id"] for row in rejects] == ["odd", "odd"]
    assert all("must alternate" in row["reason"] for row in rejects)
    assert json.loads((place / "plan.json").read_text())["num_rows"] == 2


def test_a_conversation_that_a_template_refuses_is_asked_as_one_question(tmp_path):
    engine = TransformersEngine(make_base(tmp_path, template=STRICT))
    twice = [{"role": "user", "content": "what is the fee?"}, {"role": "user", "content": "who chairs?"}]
    answers = engine.generate([twice, "what is the fee?\n\nwho chairs?"], max_new_tokens=4)
    assert answers[0].num_prompt_tokens == answers[1].num_prompt_tokens
    assert answers[0].text == answers[1].text


def test_rows_longer_than_the_base_can_take_are_refused(registry, tmp_path):
    base = publish_base(registry, tmp_path / "base", "gpt2", None)
    with pytest.raises(TooLong, match=r"takes 256 tokens at once: set train\.max_row_tokens"):
        prepared(registry, tmp_path / "plan", base, ROWS, max_row_tokens=512)


@pytest.mark.parametrize(("kind", "plain"), [("llama", True), ("qwen3", True), ("gpt2", True), ("gemma2", False)])
def test_the_loss_is_that_of_the_models_own_forward_pass(tmp_path, kind, plain):
    model = load_model(make_base(tmp_path, kind))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    assert heads_plainly(model) is plain
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :5] = -100
    wanted = model(input_ids=ids, labels=labels).loss
    loss = AnswerLoss(model)
    loss.plain_head = plain
    assert torch.allclose(loss(ids, labels, 1 / int((labels[:, 1:] != -100).sum())), wanted, rtol=1e-4)
    check_packs(model)


def test_what_cannot_be_packed_or_held_says_so(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    mamba = AutoConfig.for_model("mamba", vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(CannotTrain, match=r"set no train\.pack_tokens"):
        check_packs(AutoModelForCausalLM.from_config(mamba))
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = AutoConfig.for_model("mixtral", vocab_size=64, num_key_value_heads=2, num_local_experts=2, **shape)
    model = AutoModelForCausalLM.from_config(experts)
    with pytest.raises(CannotTrain, match=r"osft cannot hold .*mlp"):
        check_held(model, set(chosen_weights(model)))


def test_generation_settings_that_greedy_decoding_has_no_use_for_can_be_saved(registry, tmp_path):
    base = make_base(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 0}))
    version = import_base(base, "qwen3", registry=registry, tracked=False)
    folder = trained(registry, tmp_path, version, num_steps=2)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert sorted(ends) == sorted(TransformersEngine(base)._format.end_tokens)
    assert len(ends) == 2
