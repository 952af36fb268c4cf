"""The recipe `head`: each kind of head learns, what it exports plain transformers loads, broken rows are rejects."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file

from app.core.parquet import read_rows, write_rows
from app.inference.engine import ModelUnusable, TransformersEngine
from app.training.bases import find_files
from app.training.data import load_examples
from app.training.errors import BaseRefused, CannotTrain, NothingToTrain
from app.training.estimate import estimate
from app.training.heads.measures import (
    Located,
    best_span,
    null_threshold,
    of_answers,
    of_label_sets,
    of_labels,
    of_located,
    of_scores,
    of_tags,
    spans_of,
)
from app.training.heads.rows import Unusable, read_row
from app.training.look import look
from app.training.plan import EXAMPLES_FILE, HELD_OUT_FILE
from app.training.prepare import prepare
from app.training.settings import TrainSettings
from tests.training.test_loop import run
from tests.training.tiny_bases import make_base, make_encoder

COLUMNS = ("row_id", "text", "question", "context", "label", "extra", "split")
WORDS = "the fee of harbour orchard lantern is was paid by cats dogs 1 2 3 4 5 6 7 8 9 what who ? ."
NAMES, NUMBERS = ("harbour", "orchard", "lantern"), "123456789"
GIVEN = {"recipe": "head", "num_steps": 60, "batch_size": 8, "learning_rate": 4e-3, "num_warmup_steps": 4}
GIVEN |= {"num_checkpoints": 2, "dtype": "float32", "max_row_tokens": 32, "workers": {"num_workers": 1}}


def text_of(number: int) -> str:
    return f"the fee of {NAMES[number % 3]} is {NUMBERS[number % 9]} paid by {'cats' if number % 2 else 'dogs'} ."


def row_of(number: int, task: str) -> dict:
    name, digit, text = NAMES[number % 3], NUMBERS[number % 9], text_of(number)
    said = {
        "classification": {"text": text, "label": "cat" if number % 2 else "dog"},
        "score": {"text": text, "extra": {"score": int(digit) / 3}},
        "multilabel": {"text": text, "extra": {"labels": ["cats", "pets"] * (number % 2)}},
        "token": {"text": text, "extra": {"spans": [{"start": 11, "end": 11 + len(name), "label": "NAME"}]}},
        "span": {
            "question": "what is the fee ?",
            "context": text,
            "extra": {"answers": {"text": [digit], "answer_start": [text.index(digit)]}},
        },
    }[task]
    said |= {"extra": json.dumps(said["extra"])} if "extra" in said else {}
    return {"row_id": str(number), "split": "heldout" if number % 5 == 0 else "train", **said}


def publish(registry, folder: Path, rows: list[dict], name: str = "rows"):
    (folder / name).mkdir(parents=True)
    table = [{column: row.get(column) for column in COLUMNS} for row in rows]
    write_rows(folder / name / "rows.parquet", table, schema=pa.schema([(column, pa.string()) for column in COLUMNS]))
    return registry.publish("dataset", name, folder=folder / name, inputs={"name": name})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("bert"), WORDS)


@pytest.fixture
def planned(registry, tmp_path, encoder):
    """Makes run folders: `planned(task, base="trained", folder=encoder, rows=None, **settings)`."""

    def make(task: str, base: str = "trained", *, folder: Path = encoder, rows=None, **changes) -> Path:
        number = len(list(tmp_path.glob("run-*")))
        data = publish(registry, tmp_path / f"data-{number}", rows or [row_of(n, task) for n in range(60)])
        start = registry.publish("model", "base", folder=folder, inputs={"folder": str(folder)})
        settings = TrainSettings.model_validate(
            {**GIVEN, "head": {"task": task, "base": base, "learning_rate": 2e-2}, **changes}
        )
        place = tmp_path / f"run-{number}"
        given = {"base": start, "model": None, "data": [data], "vocabulary": (), "registry": registry}
        prepare(place, name="m", settings=settings, **given)
        return place

    return make


def summary(checkpoints: dict[int, Path]) -> dict:
    return json.loads((checkpoints[max(checkpoints)] / "summary.json").read_text())


def exported(place: Path, checkpoints: dict[int, Path]) -> Path:
    """The model folder as it is published, with its tokenizer."""
    folder = checkpoints[max(checkpoints)] / "export"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(place / name, folder / name)
    return folder


MORE = {"span": {"num_steps": 100}, "token": {"lora": {"rank": 8, "alpha": 16}}}


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize(
    ("task", "base", "figure", "least", "kind"),
    [
        ("classification", "trained", "heldout_macro_f1", 0.9, "BertForSequenceClassification"),
        ("score", "trained", "heldout_spearman", 0.9, "BertForSequenceClassification"),
        ("multilabel", "trained", "heldout_micro_f1", 0.9, "BertForSequenceClassification"),
        ("token", "adapted", "heldout_span_f1", 0.9, "BertForTokenClassification"),
        ("span", "subspaces", "heldout_exact_match", 0.7, "BertForQuestionAnswering"),
    ],
)
def test_each_kind_of_head_learns_and_plain_transformers_loads_it(planned, task, base, figure, least, kind):
    place = planned(task, base, **MORE.get(task, {}))
    made = run(place)
    found = summary(made)
    assert found[figure] >= least, found
    assert ("leak_master" in found) == (base == "subspaces")
    folder = exported(place, made)
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if task == "classification":
        assert model.config.id2label == {0: "cat", 1: "dog"}
        said = model(**tokenizer([text_of(1), text_of(2)], return_tensors="pt", padding=True)).logits.argmax(-1)
        assert [model.config.id2label[n] for n in said.tolist()] == ["cat", "dog"]
    elif task == "multilabel":
        assert model.config.problem_type == "multi_label_classification"
        given = tokenizer([text_of(3), text_of(2)], return_tensors="pt", padding=True)
        said = [[model.config.id2label[n] for n in row.nonzero()[:, 0].tolist()] for row in model(**given).logits > 0]
        assert said == [["cats", "pets"], []]
    elif task == "token":
        assert sorted(model.config.label2id) == ["B-NAME", "O"]


@pytest.mark.usefixtures("one_worker")
def test_a_frozen_base_keeps_its_bits_and_a_run_that_was_cut_off_goes_on_as_if_not(planned, encoder):
    given = {"num_steps": 12, "num_checkpoints": 3, "learning_rate": 1e-2, "max_tokens_per_worker": 64}
    whole = run(planned("classification", "frozen", **given))
    resumed = run(planned("classification", "frozen", **given), restore_from=whole[4])
    tables = [load_file(each[12] / "export" / "model.safetensors") for each in (whole, resumed)]
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])
    before = {f"bert.{name}": value for name, value in load_file(encoder / "model.safetensors").items()}
    assert set(tables[0]) - set(before) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tables[0][name], value) for name, value in before.items())
    assert summary(whole)["num_trained_parameters"] == 2 * 32 + 2


@pytest.mark.usefixtures("one_worker")
def test_a_step_in_passes_is_the_same_step_and_dropout_resumes(planned):
    """Whole and in passes differ by what drops out, so nothing does there; the run that is cut off has dropout."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    quiet = make_encoder(planned("token").parent / "quiet", WORDS, **still)
    given = {"num_steps": 4, "num_checkpoints": 2}
    runs = [run(planned("token", folder=quiet, **given))]
    runs.append(run(planned("token", folder=quiet, max_tokens_per_worker=32, **given)))
    runs.append(run(planned("token", zero_stage=3, **given)))
    runs.append(run(planned("token", zero_stage=3, **given), restore_from=runs[2][2]))
    whole, parts, noisy, resumed = (load_file(each[4] / "export" / "model.safetensors") for each in runs)
    assert all(torch.allclose(whole[name], parts[name], atol=2e-4) for name in whole)
    assert all(torch.equal(noisy[name], resumed[name]) for name in noisy)


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize(("kind", "task"), [("qwen3", "classification"), ("gpt2", "token"), ("llama", "span")])
def test_a_causal_model_carries_a_head_and_its_tokenizer_names_the_padding(planned, tmp_path, kind, task):
    base = make_base(tmp_path / kind, kind)
    place = planned(task, folder=base, num_steps=2, max_row_tokens=120)
    folder = exported(place, run(place))
    model = AUTO[task].from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.pad_token, model.config.pad_token_id) == ("<|endoftext|>", 0)
    texts = [text_of(1), text_of(2) * 2] if task != "span" else [["what ?", text_of(1)], ["who ?", text_of(2) * 2]]
    alone, both = (model(**tokenizer(each, return_tensors="pt", padding=True))[0] for each in (texts[:1], texts))
    assert torch.allclose(alone[0], both[0][: alone.shape[1]], atol=1e-4)


AUTO = {
    "classification": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "span": transformers.AutoModelForQuestionAnswering,
}


def test_there_is_no_such_head(planned, tmp_path):
    with pytest.raises(CannotTrain, match="no head for `span` on gemma2"):
        planned("span", folder=make_base(tmp_path / "gemma2", "gemma2"), max_row_tokens=120)


SPAN = {"start": 0, "end": 3, "label": "X"}
TWICE = {"text": ["a"], "answer_start": [1]}
BROKEN = [
    ("classification", {"text": "the fee"}, "has no `label`"),
    ("classification", {"label": "cat"}, "has no `text`"),
    ("score", {"text": "the fee"}, "has no `score`"),
    ("score", {"text": "the fee", "score": float("nan")}, "`score` is no finite number"),
    ("token", {"tokens": ["the", "fee"], "tags": ["O"]}, "has neither `spans` nor as many `tags` as `tokens`"),
    ("token", {"tokens": ["the", " "], "tags": ["O", "O"]}, "something else than words"),
    ("token", {"text": "the fee", "spans": [SPAN | {"start": 1}]}, "the span 1 to 3 does not begin and end with words"),
    ("token", {"text": "the fee", "spans": [{"start": 0, "label": "X"}]}, "has no `start`, `end` and `label`"),
    ("token", {"text": "the fee", "spans": [SPAN] * 2}, "overlaps another"),
    ("span", {"question": "who?", "context": "the fee", "answer": "dogs"}, "does not stand in the context"),
    ("span", {"question": "who?", "context": "a a", "answers": TWICE}, "does not stand in the context at 1"),
    ("span", {"question": "who?", "context": "the fee", "answers": []}, "has no `answers`"),
    ("multilabel", {"text": "the fee", "label": "a"}, "has no `labels`"),
    ("multilabel", {"text": "the fee", "labels": []}, "has no `labels`"),
    ("multilabel", {"text": "the fee", "extra": '{"labels": [1.5]}'}, "`labels` holds something else"),
    ("span", {"question": "who?", "answer": "fee"}, "has no `context`"),
    ("span", {"question": "who?", "context": "the fee", "extra": "{"}, "`extra` is no JSON"),
]


@pytest.mark.parametrize(("task", "row", "reason"), BROKEN)
def test_a_row_that_is_none_says_why(task, row, reason):
    with pytest.raises(Unusable, match=reason):
        read_row(row, task)


def test_what_may_be_empty_says_something():
    none = {"question": "who?", "context": "the fee", "extra": '{"answers": {"text": [], "answer_start": []}}'}
    imported = {"text": "the fee\n\nwho?", "context": "the fee", "extra": none["extra"]}
    assert read_row(none, "span") == read_row(imported, "span")
    assert (read_row(none, "span").text, read_row(none, "span").places) == ("who?", ())
    assert read_row({"text": "the fee", "extra": '{"labels": []}'}, "multilabel").labels == ()


def test_a_long_context_is_cut_into_windows_as_transformers_does_and_the_answer_is_in_some(planned):
    context = " ".join(text_of(n) for n in range(4))  # 36 words
    row = {"row_id": "0", "question": "what is the fee ?", "context": context, "split": "train"}
    said = {"text": ["lantern"], "answer_start": [context.index("lantern")]}
    across = " ".join(context.split()[7:17])  # windows are 16 words and begin with each 8th
    lost = {"text": [across], "answer_start": [context.index(across)]}
    rows = [
        {**row, "extra": json.dumps({"answers": said})},
        {**row, "row_id": "1", "extra": json.dumps({"answers": {"text": []}})},
        {**row, "row_id": "2", "extra": json.dumps({"answers": lost})},
        {**row, "row_id": "3", "question": "what " * 20, "extra": json.dumps({"answers": said})},
    ]
    place = planned("span", rows=rows, max_row_tokens=24, head={"task": "span", "overlap_tokens": 8})
    made = load_examples(place / EXAMPLES_FILE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    theirs = tokenizer(
        row["question"], context, truncation="only_second", max_length=24, stride=8, return_overflowing_tokens=True
    )
    assert [each.tokens for each in made if each.group == 0] == theirs["input_ids"]
    held = [tokenizer.decode(each.tokens[int(each.target[0]) : int(each.target[1]) + 1]) for each in made]
    assert held.count("lantern") in (1, 2)
    assert {word for each, word in zip(made, held, strict=True) if each.group == 1} == {"[CLS]"}
    reasons = {each["row_id"]: each["reason"] for each in read_rows(place / "rejects.parquet")}
    assert reasons == {
        "2": "no window holds the answer: raise head.overlap_tokens",
        "3": "a question of 22 tokens leaves no room for its context: raise max_row_tokens",
    }


@pytest.mark.usefixtures("one_worker")
def test_whether_a_context_answers_is_learned_and_judged_over_windows(planned):
    """The fee of the harbour is asked for; half of the long contexts do not state it."""

    def row(number):
        names = ["orchard", "lantern"] * 2
        if number % 2:
            names[number % 4] = "harbour"
        digit = NUMBERS[number % 9]
        context = " ".join(f"the fee of {name} is {digit if name == 'harbour' else '.'} ." for name in names)
        at = context.find(digit)
        answers = {"text": [digit], "answer_start": [at]} if at >= 0 else {"text": [], "answer_start": []}
        return {
            "row_id": str(number), "question": "what is the fee of harbour ?", "context": context,
            "extra": json.dumps({"answers": answers}), "split": "heldout" if number % 5 == 0 else "train",
        }  # fmt: skip

    head = {"task": "span", "overlap_tokens": 6, "learning_rate": 2e-2}
    place = planned("span", rows=[row(n) for n in range(80)], head=head, max_row_tokens=28, num_steps=160)
    assert max(len(each.tokens) for each in load_examples(place / EXAMPLES_FILE)) == 28
    found = summary(run(place))
    assert found["heldout_exact_match"] >= 0.8, found
    assert isinstance(found["heldout_null_threshold"], float)


def test_rows_of_every_form_say_the_same():
    context = "the fee is 12"
    asked = {"question": f"{context}\n\nwhat?", "context": context, "answer": "12", "answers": ["12"]}
    given = {"question": "what?", "context": context, "answers": {"text": ["12", "12"], "answer_start": [11, 11]}}
    assert read_row(asked, "span") == read_row(given, "span") == read_row({**asked, "extra": "{}"}, "span")
    assert read_row(asked, "span").places == ((11, 13),)
    words = read_row({"tokens": ["Ruth", "chairs", "."], "tags": ["B-P", "O", "O"]}, "token")
    spans = read_row({"text": "Ruth chairs .", "spans": [{"start": 0, "end": 4, "label": "P"}]}, "token")
    assert words == spans
    paired = read_row({"question": "one", "label": 0, "extra": '{"text_pair": "two"}'}, "classification")
    assert (paired.text, paired.pair, paired.labels) == ("one", "two", ("0",))
    imported = {"question": "one\n\ntwo", "context": "two", "label": "0"}
    assert read_row(imported, "classification") == paired
    assert read_row({"text": "one\n\ntwo", "context": "two", "extra": '{"score": 2}'}, "score").pair == "two"
    assert read_row({"question": "two\n\none", "context": "two", "label": "0"}, "classification").pair is None


def test_rows_left_out_have_a_reason_and_those_held_out_are_not_learned(planned):
    rows = [row_of(n, "classification") for n in range(10)]
    rows += [{"row_id": "none", "text": "the fee"}, {"row_id": "long", "text": "fee " * 40, "label": "cat"}]
    rows += [{"row_id": "new", "text": "the fee", "label": "cow", "split": "heldout"}]
    rows = [{"split": "train", **row} for row in rows]
    place = planned("classification", rows=rows)
    plan = json.loads((place / "plan.json").read_text())
    assert (plan["labels"], plan["num_rows"], plan["num_held_out"], plan["num_left_out"]) == (["cat", "dog"], 8, 2, 3)
    reasons = {row["row_id"]: row["reason"] for row in read_rows(place / "rejects.parquet")}
    assert reasons == {
        "none": "has no `label`",
        "new": "the label 'cow' is none of those to learn",
        "long": "longer than train.max_row_tokens (32)",
    }
    assert [len(load_examples(place / name)) for name in (EXAMPLES_FILE, HELD_OUT_FILE)] == [8, 2]
    tokens = load_examples(place / EXAMPLES_FILE)[0].tokens
    assert transformers.AutoTokenizer.from_pretrained(place)(text_of(1))["input_ids"] == tokens
    with pytest.raises(NothingToTrain, match=r"no row for head \(classification\), the first because: has no `label`"):
        planned("classification", rows=[{"row_id": "1", "text": "the fee", "split": "train"}])
    with pytest.raises(NothingToTrain, match="every row says 'cat'"):
        planned("classification", rows=[{"row_id": "1", "text": "the fee", "label": "cat", "split": "train"}])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head": {"base": "adapted"}, "zero_stage": 3}, "zero_stage must be 0, 1 or 2 for train.head.base: adapted"),
        ({"head": {"base": "adapted"}, "lora": {"quantize": True}}, "quantize must be left out for head"),
        ({"head": {"base": "subspaces"}, "zero_stage": 0}, "zero_stage must be 1, 2 or 3 for osft"),
        ({"pack_tokens": 256}, "pack_tokens must be left out for head"),
        ({"head": {"tasks": "span"}}, "tasks"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        TrainSettings.model_validate({"recipe": "head", **changes})


def test_what_a_head_is_counts_where_it_is_trained_alone():
    assert "head" not in TrainSettings().inputs()
    assert TrainSettings(recipe="head").inputs()["head"]["task"] == "classification"


def test_an_encoder_is_a_base_of_heads_alone(encoder, registry, tmp_path, planned):
    found = look(encoder)
    assert (found["architecture"], found["chat_template"], found["end_tokens"]) == ("BertModel", None, [])
    assert "config.json" in find_files(encoder)[0]
    masked = shutil.copytree(encoder, tmp_path / "masked")
    bert = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(encoder))
    bert.save_pretrained(masked)  # no pooler, and a head that goes
    assert look(masked)["architecture"] == "BertModel"
    state = {name: value for name, value in bert.state_dict().items() if "layer.1.output.dense.w" not in name}
    bert.save_pretrained(masked, state_dict=state)
    with pytest.raises(BaseRefused, match=r"encoder.layer.1.output.dense.weight is missing"):
        look(masked)
    with pytest.raises(ModelUnusable, match="writes nothing"):
        TransformersEngine(encoder)
    with pytest.raises(CannotTrain, match="the base writes nothing, so sft cannot train it"):
        planned("classification", folder=encoder, recipe="sft")


def test_less_memory_where_less_learns(planned):
    from app.training.plan import read_plan

    found = {
        base: estimate(read_plan(place), place)
        for base in ("frozen", "adapted", "trained")
        for place in [planned("token", base, lora={"rank": 1})]
    }
    parts = [found[base].memory for base in ("frozen", "adapted", "trained")]
    assert parts[0].optimizer == 8 * (32 + 1) * 2 < parts[1].optimizer < parts[2].optimizer
    assert parts[0].activations < parts[1].activations
    assert found["frozen"].flops < found["adapted"].flops


def test_figures_of_what_is_right():
    assert of_labels([0, 0, 1], [0, 1, 1]) == {"accuracy": 2 / 3, "macro_f1": pytest.approx(2 / 3)}
    assert spans_of(["O", "B-P", "I-P", "B-P", "I-L", "O", "noun"]) == [
        (1, 3, "P"), (3, 4, "P"), (4, 5, "L"), (6, 7, "noun")
    ]  # fmt: skip
    right, said = [["B-P", "I-P", "O"], ["O"]], [["B-P", "O", "O"], ["O"]]
    assert of_tags(right, said) == {"accuracy": 0.75, "span_f1": 0.0}
    assert of_tags(right, right)["span_f1"] == 1.0
    answers = of_answers([["The fee.", "12"], ["Ruth Calder"], ["..."]], ["fee", "Ruth", ""])
    assert answers == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx((1 + 2 / 3 + 1) / 3)}
    assert of_scores([1.0, 2.0, 4.0], [0.1, 0.2, 0.3])["spearman"] == pytest.approx(1.0)
    assert of_scores([1.0, 2.0, 2.0], [3.0, 3.0, 3.0]) == {"spearman": 0.0, "mean_absolute_error": pytest.approx(4 / 3)}
    sets = of_label_sets([[1, 0], [1, 1], [0, 0]], [[True, False], [False, True], [False, False]])
    assert sets == {"micro_f1": pytest.approx(0.8), "macro_f1": pytest.approx(5 / 6), "exact_match": 2 / 3}
    ends = torch.tensor([[9.0, 0, 5, 0, 1], [9, 8, 0, 2, 3]]).numpy()
    assert best_span(ends, first=1, last=4, longest=2) == (1, 1)
    assert best_span(ends, first=2, last=4, longest=2) == (2, 3)
    assert best_span(ends, first=2, last=4, longest=9) == (2, 4)


def test_the_threshold_for_no_answer_is_that_of_most_f1_and_judges_others():
    rows = [Located([], "x", 3.0), Located([], "x", 2.5), Located(["a"], "a", 1.0), Located(["b"], "c", -1.0)]
    assert null_threshold(rows) == 1.75
    assert null_threshold([]) == 0.0
    assert null_threshold(rows[:2]) == 2.0  # under all
    assert null_threshold(rows[2:]) == 1.0  # over all that are right
    found = of_located([*rows[:3], Located(["a"], "a", 0.0)])
    assert found == {"exact_match": 1.0, "f1": 1.0, "null_threshold": 1.75}
    assert of_located([Located([], "x", 1.0), Located(["a"], "a", 5.0)])["f1"] < 1.0
