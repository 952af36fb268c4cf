"""The text engine, on a tiny model that a few steps on the spot have taught two answers."""

import asyncio
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from app.inference.adapters import NotMixable
from app.inference.chat import render
from app.inference.chat_format import load_tokenizer
from app.inference.engine import ModelUnusable, TransformersEngine
from app.inference.passages import Excerpt, Grounded, turns_of
from app.inference.sampling import PromptTooLong, Sampling
from app.inference.shaping import SchemaUnusable
from app.training.adapters import LoraSettings
from app.training.data import encode_rows, pad
from app.training.model import AnswerLoss, new_model, save_model, with_adapters
from app.training.settings import ModelSettings
from app.training.tokenizer import save_tokenizer, train_tokenizer

ROWS = [
    {"question": "fee?", "answer": "12 euros a year"},
    {"question": "who chairs the audit committee of the cooperative?", "answer": "Ruth Calder"},
]
SHAPE = ModelSettings(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_context_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.set_num_threads(1)
    tokenizer = train_tokenizer([text for row in ROWS for text in row.values()] * 2, vocabulary_size=300)
    save_tokenizer(tokenizer, path, max_context_tokens=64)
    model = new_model(SHAPE, vocabulary_size=tokenizer.get_vocab_size())
    teach(model, tokenizer, ROWS, num_steps=80)
    save_model(model, path, dtype="float32")
    return path


def teach(model, tokenizer, rows: list[dict[str, str]], *, num_steps: int) -> None:
    loss = AnswerLoss(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    input_ids, labels = (torch.from_numpy(part) for part in pad(encode_rows(rows, tokenizer)))
    for _ in range(num_steps):
        loss(input_ids, labels, 0.1).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_answers_do_not_depend_on_their_neighbours(folder):
    engine = TransformersEngine(folder)
    questions = [row["question"] for row in ROWS]
    together = engine.generate(questions)
    assert [answer.text for answer in together] == [row["answer"] for row in ROWS]
    for question, answer in zip(questions, together, strict=True):
        (alone,) = engine.generate([question])
        assert alone.text == answer.text
        assert alone.mean_logprob == pytest.approx(answer.mean_logprob, abs=1e-4)
        assert alone.num_prompt_tokens == answer.num_prompt_tokens == engine.count_tokens(render(question))


def test_greedy_tokens_and_logprobs_are_those_of_a_whole_pass(folder):
    engine = TransformersEngine(folder)
    (answer,) = engine.generate(["fee?"])
    tokenizer, model = engine._tokenizer, engine._model
    prompt = tokenizer.encode(render("fee?"), add_special_tokens=False)
    completion = tokenizer.encode(f"{answer.text}<|end|>", add_special_tokens=False)
    logits = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    wanted = [logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion)]
    assert answer.num_completion_tokens == len(completion)
    assert answer.mean_logprob == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)
    assert answer.min_logprob == pytest.approx(min(wanted), abs=1e-4)


def test_as_many_passages_as_leave_room_for_the_answer_stand_in_the_prompt(tmp_path):
    tokenizer = train_tokenizer([text for row in ROWS for text in row.values()] * 2, vocabulary_size=300)
    save_tokenizer(tokenizer, tmp_path, max_context_tokens=640)
    shape = SHAPE.model_copy(update={"max_context_tokens": 640})
    save_model(new_model(shape, vocabulary_size=tokenizer.get_vocab_size()), tmp_path, dtype="float32")
    engine = TransformersEngine(tmp_path)
    excerpts = tuple(Excerpt(f"c{number}", "fees.md", "The fee is 12 euros a year. " * 2) for number in range(9))
    prompt, sampling = Grounded("fee?", excerpts), Sampling(max_new_tokens=7)
    sizes = [engine.count_tokens(render(str(prompt.shown(number)))) for number in range(10)]
    fits = max(number for number in range(10) if sizes[number] <= 640 - 7)
    assert 0 < fits < 9

    async def run():
        pieces = [each async for each in engine.stream(prompt, sampling)]
        return await engine.answer(prompt, sampling), pieces, await engine.answer("fee?", sampling)

    given, pieces, plain = asyncio.run(run())
    (evaluated,) = engine.generate([prompt], sampling)
    spelled = engine.generate([turns_of(prompt, fits)], sampling)[0]
    for each in (given, evaluated, pieces[-1].whole):
        assert (each.num_passages, each.num_prompt_tokens, each.text) == (fits, sizes[fits], spelled.text)
    assert {each.num_passages for each in pieces} == {fits}
    assert (plain.num_passages, plain.num_prompt_tokens) == (0, sizes[0])
    (bare,) = engine.generate([prompt], Sampling(max_new_tokens=620))
    assert (bare.num_passages, bare.num_prompt_tokens) == (0, sizes[0])


def test_a_stream_spells_the_answer_and_a_closed_one_frees_its_place(folder):
    async def run():
        engine = TransformersEngine(folder)
        whole = await engine.answer(ROWS[1]["question"], Sampling(num_logprobs=1))
        pieces = [each async for each in engine.stream(ROWS[1]["question"], Sampling(num_logprobs=1))]
        stream = engine.stream(ROWS[0]["question"], Sampling(max_new_tokens=40))
        await anext(stream)
        await stream.aclose()
        again = await engine.answer(ROWS[1]["question"], Sampling(stop=("Cal",), num_logprobs=1))
        return whole, pieces, again, engine.load

    whole, pieces, again, load = asyncio.run(run())
    assert len(pieces) > 2
    assert "".join(each.text for each in pieces) == pieces[-1].whole.text == whole.text == ROWS[1]["answer"]
    assert sum((each.tokens for each in pieces), ()) == pieces[-1].whole.tokens
    assert b"".join(each.raw for each in whole.tokens).decode().strip() == whole.text
    assert [len(each.top) for each in whole.tokens] == [1] * (whole.num_completion_tokens - 1)
    assert (again.text, again.finish_reason, load[:2]) == ("Ruth", "stop", (0, 0))
    assert again.num_completion_tokens < whole.num_completion_tokens


SCHEMA = {
    "type": "object",
    "properties": {"paid": {"type": "boolean"}, "kind": {"enum": ["fee", "share"]}},
    "required": ["paid", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_an_answer_fits_its_schema_beside_others_that_have_none(folder, temperature):
    engine = TransformersEngine(folder)
    assert engine.lacks(Sampling(schema=SCHEMA)) == ()
    shaped = Sampling(schema=SCHEMA, max_new_tokens=60, temperature=temperature, seed=1)

    async def run():
        return await asyncio.gather(engine.answer("fee?", shaped), engine.answer("fee?", Sampling()))

    given, free = asyncio.run(run())
    found = json.loads(given.text)
    assert (given.finish_reason, set(found), type(found["paid"])) == ("stop", {"paid", "kind"}, bool)
    assert found["kind"] in ("fee", "share")
    assert free.text == ROWS[0]["answer"]


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"type": "object", "properties": 3}])
def test_a_schema_that_cannot_be_used_is_refused(folder, schema):
    with pytest.raises(SchemaUnusable, match="schema: "):
        TransformersEngine(folder).generate(["fee?"], Sampling(schema=schema))


def test_an_answer_that_is_cut_off_says_so(folder):
    cut, whole = (TransformersEngine(folder).generate(["fee?"], max_new_tokens=n)[0] for n in (2, 32))
    assert (cut.finish_reason, cut.num_completion_tokens) == ("length", 2)
    assert whole.finish_reason == "stop"
    assert whole.text.startswith(cut.text)


def test_messages_and_a_question_are_one_prompt(folder):
    engine = TransformersEngine(folder)
    assert engine.generate(["fee?"]) == engine.generate([[{"role": "user", "content": "fee?"}]])
    assert engine.generate([]) == []


def test_a_prompt_that_is_too_long_keeps_its_end(folder):
    (answer,) = TransformersEngine(folder).generate(["very " * 200 + "fee?"], max_new_tokens=8)
    assert answer.num_prompt_tokens == 64 - 8


def test_a_caller_who_waits_is_told_that_a_prompt_is_too_long(folder):
    engine = TransformersEngine(folder)
    fitting = "fee " * 80
    while engine.count_tokens(render(fitting)) >= 64:
        fitting = fitting[:-1]
    given = asyncio.run(engine.answer(fitting, Sampling(max_new_tokens=50)))
    assert given.num_prompt_tokens + given.num_completion_tokens <= 64
    with pytest.raises(PromptTooLong, match="together this model reads 64"):
        asyncio.run(engine.answer("fee " * 80, Sampling()))


@pytest.fixture(scope="module")
def adapters(folder, tmp_path_factory) -> list[Path]:
    """Two that were taught the other answer, and one that is no plain LoRA."""
    from transformers import AutoModelForCausalLM

    tokenizer, paths = load_tokenizer(folder).backend_tokenizer, []
    for row, other, use_dora in ((0, 1, False), (1, 0, False), (0, 1, True)):
        settings = LoraSettings(rank=8, alpha=16, use_dora=use_dora)
        model = with_adapters(AutoModelForCausalLM.from_pretrained(folder), settings, seed=0)
        rows = [{"question": ROWS[row]["question"], "answer": ROWS[other]["answer"]}]
        teach(model, tokenizer, rows, num_steps=1 if use_dora else 60)
        paths.append(tmp_path_factory.mktemp("adapter"))
        save_model(model, paths[-1], dtype="float32")
    return paths


def test_an_adapter_changes_the_answer(folder, adapters):
    assert TransformersEngine(folder, adapter=adapters[0]).generate(["fee?"])[0].text == ROWS[1]["answer"]


def test_adapters_on_one_model_answer_in_one_batch_as_if_each_were_merged(folder, adapters):
    engine = TransformersEngine(folder)
    merged = [engine, *(TransformersEngine(folder, adapter=each) for each in adapters[:2])]
    views = [engine, *(engine.adapted(each) for each in adapters[:2])]
    asked = [(view, row["question"]) for view in range(3) for row in ROWS]

    async def together():
        return await asyncio.gather(*(views[view].answer(question, Sampling()) for view, question in asked))

    given = asyncio.run(together())
    wanted = [merged[view].generate([question])[0] for view, question in asked]
    assert [each.text for each in given] == [each.text for each in wanted]
    assert given[0].text != given[2].text == ROWS[1]["answer"]
    for one, other in zip(given, wanted, strict=True):
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
    assert len({id(each.steps) for each in views}) == 1


def test_an_adapter_that_nobody_holds_any_more_is_dropped(folder, adapters):
    engine = TransformersEngine(folder)
    first = engine.adapted(adapters[0])
    del first
    second = engine.adapted(adapters[1])
    assert len(engine._network._names) == 1
    assert second.generate([ROWS[1]["question"]])[0].text == ROWS[0]["answer"]
    assert engine.generate(["fee?"])[0].text == ROWS[0]["answer"]


def test_an_adapter_that_cannot_be_mixed_is_refused_and_merges(folder, adapters):
    with pytest.raises(NotMixable, match="no plain LoRA"):
        TransformersEngine(folder).adapted(adapters[2])
    assert TransformersEngine(folder, adapter=adapters[2]).generate(["fee?"])[0].text


@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_that_cannot_be_loaded_leaves_no_trace(folder, adapters, tmp_path, beside):
    engine = TransformersEngine(folder)
    good = [engine.adapted(adapters[1])] if beside else []
    (before,), num_before = engine.generate(["fee?"]), num_weights(engine)
    for damage in (lambda data: data[:500], swapped):
        shutil.copytree(adapters[0], tmp_path, dirs_exist_ok=True)
        weights = tmp_path / "adapter_model.safetensors"
        weights.write_bytes(damage(weights.read_bytes()))
        with pytest.raises(ModelUnusable, match="cannot be loaded"):
            engine.adapted(tmp_path)
    (after,) = engine.generate(["fee?"])
    assert (after.text, num_weights(engine)) == (before.text, num_before)
    assert after.mean_logprob == pytest.approx(before.mean_logprob, abs=1e-6)
    good.append(engine.adapted(adapters[0]))
    assert good[-1].generate(["fee?"])[0].text == ROWS[1]["answer"]
    assert engine.generate(["fee?"])[0].text == before.text


def num_weights(engine):
    return sum(1 for _ in engine._network._model.parameters())


def swapped(data):
    """An adapter's last weights in a shape that does not fit."""
    weights = load(data)
    weights[max(weights)] = torch.zeros(3, 3)
    return save(weights)


@pytest.mark.parametrize(
    ("missing", "message"), [("config.json", "no config.json"), ("tokenizer_config.json", "tokenizer_config.json")]
)
def test_a_folder_that_is_no_model_is_named(folder, tmp_path, missing, message):
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelUnusable, match=message):
        TransformersEngine(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: b"\xff" * 8 + data[8:]], ids=["cut", "header"]
)
def test_damaged_weights_are_named(folder, tmp_path, damage):
    for file in folder.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(damage(data) if file.suffix == ".safetensors" else data)
    with pytest.raises(ModelUnusable, match="signalbox verify"):
        TransformersEngine(tmp_path)


def test_a_folder_that_is_no_adapter_is_named(folder, tmp_path):
    with pytest.raises(ModelUnusable, match="PEFT"):
        TransformersEngine(folder, adapter=tmp_path)


def test_models_are_loaded_one_at_a_time(folder, monkeypatch):
    """transformers' loading is not made for threads: two at once leave the tying of weights off in the process."""
    from transformers import AutoModelForCausalLM

    load, inside, most = AutoModelForCausalLM.from_pretrained, [], []

    def watched(*args, **more):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        try:
            return load(*args, **more)
        finally:
            inside.pop()

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: TransformersEngine(folder), range(4)))
    assert most == [1, 1, 1, 1]
