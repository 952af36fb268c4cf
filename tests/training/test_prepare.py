"""From versions to a run folder."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from app.core.parquet import read_rows, write_rows
from app.inference.chat import CHAT_TEMPLATE, SPECIAL_TOKENS, render, render_messages
from app.training.data import load_examples
from app.training.errors import NothingToReplay, NothingToTrain, TooLong
from app.training.plan import EXAMPLES_FILE, append_progress, read_plan, read_progress, worker_counts
from app.training.prepare import prepare
from app.training.settings import ModelSettings, TrainSettings
from app.training.tokenizer import CONFIG_FILE, TOKENIZER_FILE, load_tokenizer, save_tokenizer, train_tokenizer

COLUMNS = ("question", "answer", "subject", "attribute", "split")
MODEL = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, vocabulary_size=300)


def publish(registry, folder: Path, name: str, rows: list[tuple[str, ...]]):
    folder = folder / name
    folder.mkdir()
    table = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    write_rows(folder / "rows.parquet", table, schema=pa.schema([(column, pa.string()) for column in COLUMNS]))
    return registry.publish("synthetic", name, folder=folder, inputs={"name": name})


def prepared(registry, folder: Path, *data, **changes):
    return prepare(
        folder / "plan", name="m", base=None, model=MODEL, data=data, vocabulary=(), registry=registry,
        settings=TrainSettings(**changes),
    )  # fmt: skip


def test_only_the_train_split_is_trained_on_and_long_rows_are_counted(registry, tmp_path):
    long = "very " * 400
    rows = [("fee?", "1", "a", "fee", "train"), ("fee??", "1", "a", "fee", "heldout"), (long, "1", "a", "fee", "train")]
    plan = prepared(registry, tmp_path, publish(registry, tmp_path, "rows", rows), max_row_tokens=100)
    assert (plan.num_rows, plan.num_left_out) == (1, 1)
    assert len(load_examples(tmp_path / "plan" / EXAMPLES_FILE)) == 1
    (left_out,) = read_rows(tmp_path / "plan" / "rejects.parquet")
    assert (left_out["num_tokens"] > 400, left_out["reason"]) == (True, "longer than train.max_row_tokens (100)")
    assert read_plan(tmp_path / "plan") == plan


def test_rows_must_fit_a_new_architecture(registry, tmp_path):
    version = publish(registry, tmp_path, "rows", [("fee?", "1", "a", "fee", "train")])
    given = {"name": "m", "base": None, "data": [version], "vocabulary": (), "registry": registry}
    given["model"] = ModelSettings(config={"model_type": "gpt2"}, max_context_tokens=96, vocabulary_size=300)
    with pytest.raises(TooLong, match="takes 96 tokens at once"):
        prepare(tmp_path / "plan", settings=TrainSettings(), **given)
    assert prepare(tmp_path / "fitting", settings=TrainSettings(max_row_tokens=96), **given).num_rows == 1


def test_nothing_to_train_on(registry, tmp_path):
    version = publish(registry, tmp_path, "rows", [("fee?", "1", "a", "fee", "heldout")])
    with pytest.raises(NothingToTrain, match="rows@1"):
        prepared(registry, tmp_path, version)
    assert not (tmp_path / "plan" / "plan.json").exists()


def test_replay_takes_what_both_state(registry, tmp_path):
    old = publish(registry, tmp_path, "old", [("fee?", "1", "a", "fee", "train"), ("due?", "2", "a", "due", "train")])
    new = publish(registry, tmp_path, "new", [("fee?", "1", "a", "fee", "train"), ("due?", "3", "a", "due", "train")])
    prepared(registry, tmp_path, new, old)
    assert sorted(example.pool for example in load_examples(tmp_path / "plan" / EXAMPLES_FILE)) == [0, 1]


def test_a_replay_of_nothing_is_refused(registry, tmp_path):
    old = publish(registry, tmp_path, "old", [("fee?", "1", "a", "fee", "train")])
    new = publish(registry, tmp_path, "new", [("due?", "3", "a", "due", "train")])
    with pytest.raises(NothingToReplay, match="replay_withdrawn"):
        prepared(registry, tmp_path, new, old)
    assert prepared(registry, tmp_path, new, old, replay_withdrawn=True).num_rows == 2


def test_the_tokenizer_is_the_same_bytes_and_can_write_anything(tmp_path):
    texts = ["the annual fee is 12 euros"] * 3
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_tokenizer(train_tokenizer(texts, vocabulary_size=290), tmp_path / name, max_context_tokens=64)
    for file in (TOKENIZER_FILE, CONFIG_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    tokenizer = load_tokenizer(tmp_path / "one")
    assert tokenizer.decode(tokenizer.encode("Žluťoučký 🐎 €").ids) == "Žluťoučký 🐎 €"
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]


def test_the_chat_template_renders_what_training_renders(tmp_path):
    from transformers import AutoTokenizer

    save_tokenizer(train_tokenizer(["fee"], vocabulary_size=270), tmp_path, max_context_tokens=64)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "fee?"}]
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == render("fee?")
    talk = [*messages, {"role": "assistant", "content": "12"}, {"role": "user", "content": "sure?"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == render_messages(talk)


def test_a_half_written_line_of_progress_is_not_read(tmp_path):
    append_progress(tmp_path, {"event": "start", "step": 0, "num_workers": 2})
    append_progress(tmp_path, {"event": "start", "step": 4, "num_workers": 1})
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"event": "st')
    lines = list(read_progress(tmp_path))
    assert [line["step"] for line in lines] == [0, 4]
    assert worker_counts(lines) == [2, 1]


def test_imported_rows_give_an_example_for_each_answer_and_each_learned_span(registry, tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [
        {"question": "fee?", "answer": "1", "history": turns, "unmask": False},
        {"question": "due?", "answer": "2", "history": turns, "unmask": True},
        {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]},
        {"text": "Running text is for another recipe."},
    ]
    folder = tmp_path / "mixed"
    folder.mkdir()
    message = pa.struct({"role": pa.string(), "content": pa.string()})
    kinds = {"history": pa.list_(message), "unmask": pa.bool_(), "input_ids": pa.list_(pa.int64())}
    kinds |= {"labels": pa.list_(pa.int64()), "text": pa.string()}
    schema = pa.schema([*((column, pa.string()) for column in COLUMNS), *kinds.items()])
    table = [{**dict.fromkeys(schema.names), "split": "train", **row} for row in rows]
    write_rows(folder / "rows.parquet", table, schema=schema)
    version = registry.publish("dataset", "mixed", folder=folder, inputs={})
    plan = prepared(registry, tmp_path, version)
    tokenizer = load_tokenizer(tmp_path / "plan")
    found = load_examples(tmp_path / "plan" / EXAMPLES_FILE)
    learned = [tokenizer.decode(each.tokens[each.num_prompt :], skip_special_tokens=False) for each in found]
    assert (plan.num_rows, plan.num_left_out) == (5, 1)
    (left_out,) = read_rows(tmp_path / "plan" / "rejects.parquet")
    assert (left_out["dataset"], "train it by cpt" in left_out["reason"]) == ("mixed@1", True)
    assert learned[:2] == ["Hello<|end|>", "1<|end|>"]
    assert learned[2] == render_messages([*turns, {"role": "user", "content": "due?"}]) + "2<|end|>"
    assert [(each.tokens, each.num_prompt) for each in found[3:]] == [([5, 6], 1), ([5, 6, 7, 8], 3)]


def test_tokens_of_another_vocabulary_are_refused(registry, tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    kinds = {"split": pa.string(), "input_ids": pa.list_(pa.int64()), "labels": pa.list_(pa.int64())}
    row = {"split": "train", "input_ids": [1, 99_999], "labels": [1, 99_999]}
    write_rows(folder / "rows.parquet", [row], schema=pa.schema(kinds))
    version = registry.publish("dataset", "tokens", folder=folder, inputs={})
    with pytest.raises(NothingToTrain, match="99999"):
        prepared(registry, tmp_path, version)


def test_preferences_become_pairs_and_what_is_none_is_left_out_with_its_reason(registry, tmp_path):
    columns = ("question", "answer", "rejected", "split")
    rows = [("fee?", "1", "2", "train"), ("due?", "1", None, "train"), ("rate?", "1", "very " * 300, "train")]
    versions = []
    for name, given in (("new", rows), ("old", [("loan?", "1", "2", "train"), ("card?", "1", "2", "heldout")])):
        (tmp_path / name).mkdir()
        table = [dict(zip(columns, row, strict=True)) for row in given]
        schema = pa.schema([(column, pa.string()) for column in columns])
        write_rows(tmp_path / name / "rows.parquet", table, schema=schema)
        versions.append(registry.publish("dataset", name, folder=tmp_path / name, inputs={"name": name}))
    plan = prepared(registry, tmp_path, *versions, recipe="dpo", max_row_tokens=100)
    examples = load_examples(tmp_path / "plan" / EXAMPLES_FILE)
    reasons = [row["reason"] for row in read_rows(tmp_path / "plan" / "rejects.parquet")]
    assert (plan.num_rows, [each.pool for each in examples], plan.num_left_out) == (2, [0, 0, 1, 1], 2)
    assert ["no worse answer" in reasons[0], "max_row_tokens (100)" in reasons[1]] == [True, True]


def test_a_run_of_epochs_that_is_taken_up_again_keeps_its_steps_and_takes_the_workers_of_now(registry, tmp_path):
    rows = publish(registry, tmp_path, "rows", [(f"fee {n}?", "1", "a", "fee", "train") for n in range(10)])
    plan = prepared(registry, tmp_path, rows, num_epochs=3, batch_size=4, replay_share=0)
    again = prepared(registry, tmp_path, rows, num_epochs=3, batch_size=4, replay_share=0, workers={"max_workers": 1})
    assert plan.settings.num_steps == again.settings.num_steps == 9 != TrainSettings().num_steps
    assert (plan.settings.workers.range, again.settings.workers.range) == ((2, 2), (1, 1))
    assert read_plan(tmp_path / "plan") == again
