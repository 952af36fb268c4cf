"""Training from Python under the names that users of Training Hub know."""

import json
from pathlib import Path

import pytest

from app.recipes import (
    INSTEAD,
    NOTE_FILE,
    OutputTaken,
    UnknownArgument,
    _check_output,
    _copy_out,
    head,
    name_of,
    sft,
    train_settings,
)
from app.registry.versions import Version
from tests.training.tiny_bases import make_base, make_encoder

FEES = {f"{name} account": f"{number} euros" for number, name in enumerate(("harbour", "lantern", "orchard"), 12)}
ASKED = ("what is the fee of the", "tell me the fee of the", "the fee of the", "how much is the", "what costs the",
         "name the price of the", "do you know the fee of the")  # fmt: skip


def test_their_names_are_our_settings():
    given = {"num_epochs": 3, "effective_batch_size": 16, "max_tokens_per_gpu": 4096, "max_seq_len": 512}
    given |= {"learning_rate": 5e-6, "warmup_steps": 7, "seed": 4, "nproc_per_node": 2, "checkpoint_at_epoch": True}
    made = train_settings("sft", given)
    assert (made.num_epochs, made.batch_size, made.max_tokens_per_worker, made.max_row_tokens) == (3, 16, 4096, 512)
    assert (made.learning_rate, made.num_warmup_steps, made.seed, made.workers.num_workers) == (5e-6, 7, 4, 2)
    assert (made.num_checkpoints, made.replay_share, made.hold_share) == (3, 0.0, 0.0)
    assert train_settings("osft", {"unfreeze_rank_ratio": 0.25}).osft.unfreeze_rank_ratio == 0.25
    lora = train_settings("lora", {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "settings": {"zero_stage": 2}})
    assert (lora.recipe, lora.lora.rank, lora.lora.alpha, lora.lora.dropout, lora.zero_stage) == ("lora", 8, 16, 0.1, 2)
    texts = train_settings("sft", {"is_pretraining": True, "block_size": 128})
    assert (texts.recipe, texts.block_tokens) == ("cpt", 128)
    assert train_settings("sft", {}, context=512).max_row_tokens == 512
    judging = train_settings("head", {"task": "span", "base": "frozen", "head_learning_rate": 1e-3})
    assert (judging.head.task, judging.head.base, judging.head.learning_rate) == ("span", "frozen", 1e-3)
    assert (judging.recipe, judging.dtype) == ("head", "float32")
    assert train_settings("sft", {"settings": {"lora": {"use_dora": True}}}).lora.use_dora


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("sft", {"lora_r": 8}, "sft takes no lora_r"),
        ("sft", {"task": "span"}, "sft takes no task"),
        ("head", {"task": "spam"}, "task: Input should be 'classification'"),
        ("sft", {"unfreeze_rank_ratio": 0.3}, "sft takes no unfreeze_rank_ratio"),
        ("sft", {"learning_rates": 1.0}, "did you mean learning_rate"),
        ("sft", {"effective_batch_size": 5, "nproc_per_node": 2}, "effective_batch_size must be a multiple of nproc"),
        ("sft", {"max_seq_len": 64, "max_tokens_per_gpu": 32}, r"max_tokens_per_gpu must be at least max_seq_len"),
        ("sft", {"max_seq_len": 2048}, "takes 1024 tokens at once: set max_seq_len"),
        ("sft", {"lr_scheduler": "polynomial"}, "name one of cosine"),
        ("sft", {"settings": {"num_step": 4}}, "num_steps"),
        ("osft", {"unfreeze_rank_ratio": 1.5}, "unfreeze_rank_ratio: Input should be less than or equal to 1"),
        ("lora", {"micro_batch_size": 2}, "set max_tokens_per_gpu"),
        ("sft", {"nproc_per_node": "gpu"}, "nproc_per_node: Input should be a valid integer"),
        *(("sft", {name: 1}, f"sft takes no {name}: ") for name in INSTEAD),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_the_callers_name(recipe, options, message):
    with pytest.raises(UnknownArgument, match=message):
        train_settings(recipe, options, context=1024)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/Qwen3-0.6B/", "Qwen3-0.6B"),
        ("hub/models--Qwen--Qwen3/snapshots/0123abcd", "Qwen--Qwen3"),
        ("my rows (1).jsonl", "my-rows-1"),
        (".jsonl", "jsonl"),
    ],
)
def test_versions_are_named_after_paths(path, name):
    assert name_of(Path(path)) == name


def test_the_output_is_replaced_only_where_a_call_wrote_it(tmp_path):
    folder, out, base = tmp_path / "version", tmp_path / "out", tmp_path / "base"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "sha256:0", "r": 8}')
    (folder / "old.bin").write_text("1")
    _check_output(out)
    _copy_out(Version("model", "m", 1, "sha256:1", {}), folder, out, base)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    (out / "mine.txt").write_text("kept")
    (folder / "old.bin").unlink()
    _check_output(out)
    _copy_out(Version("model", "m", 2, "sha256:2", {}), folder, out, base)
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "mine.txt", NOTE_FILE]
    (out / NOTE_FILE).unlink()
    with pytest.raises(OutputTaken, match="name an empty folder"):
        _check_output(out)


@pytest.mark.cluster
def test_a_folder_and_a_file_become_a_trained_folder(cluster, registry, tmp_path):
    from app.inference.models import find_model
    from app.ledger.verify import verify

    base = make_base(tmp_path / "tiny")
    rows = [
        {"messages": [{"role": "user", "content": f"{ask} {of}?"}, {"role": "assistant", "content": fee}]}
        for ask in ASKED
        for of, fee in FEES.items()
    ]
    (tmp_path / "fees.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"model_path": base, "data_path": tmp_path / "fees.jsonl", "ckpt_output_dir": tmp_path / "out"}
    given |= {"workspace": registry.workspace.root, "num_epochs": 50, "effective_batch_size": 8, "max_seq_len": 128}
    given |= {"learning_rate": 1e-2, "max_tokens_per_gpu": 1024, "settings": {"dtype": "float32"}}
    made = sft(**given)
    assert (made.version.name, made.base.name, made.data.name) == ("out", "tiny", "fees")
    assert made.version.facts["train"]["steps"] == 150
    assert made.version.parents == [made.base.digest, made.data.digest]
    assert json.loads((tmp_path / "out" / NOTE_FILE).read_text())["digest"] == made.version.digest
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (each.from_pretrained(tmp_path / "out") for each in (AutoModelForCausalLM, AutoTokenizer))
    engine = find_model(made.version, registry=registry).load(num_threads=1)
    figures = made.version.facts["train"]
    assert figures["loss_last"] < 0.5 < figures["loss_first"]
    for of in FEES:
        asked = [{"role": "user", "content": f"what is the fee of the {of}?"}]
        inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
        said = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        (answer,) = engine.generate([asked])
        assert tokenizer.decode(said, skip_special_tokens=True) == answer.text
        assert (answer.text in FEES.values(), answer.finish_reason) == (True, "stop")
    assert sft(**given) == made
    judged = head(**{**given, **labelled(tmp_path), "task": "classification", "heldout_share": 0.3})
    assert judged.version.facts["train"]["heldout_accuracy"] == 1.0
    assert judged.version.parents == [judged.base.digest, judged.data.digest]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judged")
    assert (model.config.id2label, model.base_model_prefix) == ({0: "asks", 1: "says"}, "bert")
    assert verify(registry.workspace).faults == []


def labelled(folder: Path) -> dict:
    """An encoder, and rows that say whether a text asks or says."""
    texts = [
        (f"{ask} {of} {end}", kind) for ask in ASKED for of in FEES for end, kind in ((".", "says"), ("?", "asks"))
    ]
    rows = [{"text": text, "label": kind} for text, kind in texts]
    (folder / "kinds.jsonl").write_text("\n".join(map(json.dumps, rows)))
    encoder = make_encoder(folder / "bert", " ".join(text for text, _ in texts))
    return {"model_path": encoder, "data_path": folder / "kinds.jsonl", "ckpt_output_dir": folder / "judged",
            "max_seq_len": 32, "num_epochs": 32, "learning_rate": 4e-3, "head_learning_rate": 2e-2}  # fmt: skip
