"""Preferences: the loss, a model that learns the rule behind pairs, a run that goes on as if never cut off."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.inference.chat import SPECIAL_TOKENS
from app.training.data import Batches, Example, save_examples
from app.training.dpo import REFERENCE_FILE, PreferenceLoss
from app.training.model import load_model, new_model
from app.training.pairs import encode_pairs
from app.training.plan import EXAMPLES_FILE, HELD_OUT_FILE, Plan, write_plan
from app.training.settings import DpoSettings, ModelSettings, TrainSettings
from app.training.tokenizer import train_tokenizer
from tests.training.test_loop import BASE, MODEL, run

WORDS = ["fee", "due", "rate", "loan", "card", "bank", "cash", "bond", "fund", "note"]
SHAPE = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)


def pairs(first: int, last: int, *, swapped: bool = False) -> list[dict[str, str]]:
    """A rule that can be learned: the better answer is polite, whatever is asked."""
    said = [(f"{a} {b}", f"{WORDS[(n * 7) % 10]}") for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)]
    rows = [{"question": ask, "answer": f"please {say}", "rejected": f"no {say}"} for ask, say in said][first:last]
    swap = {"answer": "rejected", "rejected": "answer", "question": "question"}
    return [{swap[name]: text for name, text in row.items()} for row in rows] if swapped else rows


TOKENIZER = train_tokenizer([text for row in pairs(0, 100) for text in row.values()], vocabulary_size=300)


def write_pairs(folder: Path, base: Path, *, swapped: bool = False, **changes) -> Path:
    folder.mkdir()
    examples = encode_pairs(pairs(0, 80, swapped=swapped), TOKENIZER)
    save_examples(examples, folder / EXAMPLES_FILE)
    given = {"recipe": "dpo", "num_steps": 12, "num_warmup_steps": 2, "num_checkpoints": 3, "batch_size": 8}
    given |= {"learning_rate": 3e-3, "dtype": "float32", "workers": {"num_workers": 1}}
    plan = Plan(
        name="m",
        settings=TrainSettings.model_validate({**given, **changes}),
        base_folder=base,
        base_digest=BASE,
        vocabulary_size=TOKENIZER.get_vocab_size(),
        num_rows=80,
    )
    write_plan(plan, folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, one_worker) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    new_model(MODEL, vocabulary_size=TOKENIZER.get_vocab_size()).save_pretrained(folder)
    return folder


def curve_of(checkpoint: Path) -> list[dict[str, float]]:
    return json.loads((checkpoint / "summary.json").read_text())["curve"]


@torch.no_grad()
def share_preferred(model) -> float:
    """Share of held-out pairs whose better answer the model holds for likelier."""
    run = Batches(encode_pairs(pairs(80, 100), TOKENIZER), batch_size=20, replay_share=0, noise=0, seed=0,
                  vocabulary_size=300, sides=2)  # fmt: skip
    batch = run.passes(0, rank=0, num_workers=1)[0]
    log_probs = PreferenceLoss(model, DpoSettings())(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.labels))
    return float((log_probs[::2] > log_probs[1::2]).float().mean())


def test_the_two_sides_of_a_pair_have_one_prompt_and_only_the_last_answer_is_learned():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    row = {"question": "fee?", "answer": "five", "rejected": "six", "history": turns, "unmask": True}
    better, worse = encode_pairs([row], TOKENIZER, pool=1)
    assert better.tokens[: better.num_prompt] == worse.tokens[: worse.num_prompt]
    learned = [TOKENIZER.decode(side.tokens[side.num_prompt :]) for side in (better, worse)]
    assert (learned, better.pool) == (["five", "six"], 1)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("pass_tokens", [None, 60])
def test_the_two_sides_of_a_pair_share_a_pass(num_workers, pass_tokens):
    examples = encode_pairs(pairs(0, 80), TOKENIZER)
    run = Batches(examples, batch_size=8, replay_share=0, noise=0, seed=0, vocabulary_size=300, pass_tokens=pass_tokens,
                  sides=2)  # fmt: skip
    run.reference = np.arange(len(examples), dtype=np.float32)
    shown = [run.passes(3, rank=rank, num_workers=num_workers) for rank in range(num_workers)]
    assert {len(each) for each in shown} == {len(shown[0])}
    assert (len(shown[0]) > 1) == (pass_tokens is not None)
    rows = [batch.reference.astype(int) for each in shown for batch in each]
    assert all((each[1::2] == each[::2] + 1).all() and (each[::2] % 2 == 0).all() for each in rows)
    assert sorted(np.concatenate(rows)[::2] // 2) == sorted(run.indices(3))
    assert {batch.scale for each in shown for batch in each} == {num_workers / 8}
    sizes = [batch.input_ids.size for each in shown for batch in each]
    assert pass_tokens is None or max(sizes) <= pass_tokens
    assert run.num_tokens(3) == sum(len(examples[place].tokens) for each in rows for place in each)


@pytest.mark.parametrize(
    ("settings", "gained", "loss"),
    [
        (DpoSettings(), (0.0, 0.0), math.log(2)),
        (DpoSettings(beta=0.5), (1.0, -2.0), math.log1p(math.exp(-1.5))),
        (DpoSettings(beta=0.5, label_smoothing=0.2), (1.0, -2.0), math.log1p(math.exp(-1.5)) + 0.2 * 1.5),
        (DpoSettings(beta=0.5), (-2.0, 1.0), math.log1p(math.exp(1.5))),
    ],
)
def test_the_loss_of_a_pair(settings, gained, loss):
    module = PreferenceLoss(new_model(SHAPE, vocabulary_size=300), settings)
    rows = [Example([5, 6, 7, 8], 2), Example([5, 6, 9], 2)]
    run = Batches(rows, batch_size=1, replay_share=0, noise=0, seed=0, vocabulary_size=300, sides=2)
    batch = run.passes(0, rank=0, num_workers=1)[0]
    input_ids, labels = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.labels)
    own = module(input_ids, labels).detach()
    plain = module.model(input_ids[:1]).logits[0].log_softmax(-1).detach()
    assert own[0] == pytest.approx(float(plain[1, 7] + plain[2, 8]), rel=1e-4)
    found = module(input_ids, labels, 1.0, reference=own - torch.tensor(gained))
    assert found.item() == pytest.approx(loss, rel=1e-4)
    margin = settings.beta * (gained[0] - gained[1])
    assert module.take_notes() == {"reward_margin": pytest.approx(margin, abs=1e-5), "pair_accuracy": margin > 0}
    assert module.take_notes() == {}
    also = PreferenceLoss(module.model, settings.model_copy(update={"sft_weight": 0.5}))
    more = also(input_ids, labels, 1.0, reference=own - torch.tensor(gained)) - found
    assert more.item() == pytest.approx(-0.5 * float(own[0]) / 2, rel=1e-4)


def test_a_model_learns_the_rule_and_from_swapped_pairs_its_opposite(tmp_path, base):
    given = {"num_steps": 40, "num_checkpoints": 1}
    trained = {swapped: run(write_pairs(tmp_path / str(swapped), base, swapped=swapped, **given))[40]
               for swapped in (False, True)}  # fmt: skip
    for swapped, folder in trained.items():
        first, *_, last = curve_of(folder)
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert (first["reward_margin"], last["pair_accuracy"]) == (pytest.approx(0, abs=1e-4), 1.0)
        assert last["reward_margin"] > 1
        assert share_preferred(load_model(folder / "export")) == (0.0 if swapped else 1.0)


@pytest.mark.parametrize(
    "given",
    [{"zero_stage": 0, "dtype": "bfloat16"}, {"zero_stage": 1}, {"zero_stage": 2, "max_tokens_per_worker": 64,
     "max_row_tokens": 32}, {"zero_stage": 3}, {"dpo": {"adapters": True, "sft_weight": 0.1}}],
)  # fmt: skip
def test_a_run_goes_on_exactly_and_is_the_same_at_every_stage(tmp_path, base, given):
    whole = run(write_pairs(tmp_path / "whole", base, **given))
    folder = write_pairs(tmp_path / "resumed", base, **given)
    resumed = run(folder, restore_from=whole[4])  # in another folder: the reference is computed again
    assert (folder / REFERENCE_FILE).read_bytes() == (tmp_path / "whole" / REFERENCE_FILE).read_bytes()
    kept = [[{**point, "tokens_per_s": 0} for point in curve_of(each[12])] for each in (whole, resumed)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 12
    name = "adapter_model.safetensors" if "dpo" in given else "model.safetensors"
    tables = [load_file(each[12] / "export" / name) for each in (whole, resumed)]
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])
    if given.get("zero_stage", 1) in (2, 3):
        plain = load_file(run(write_pairs(tmp_path / "plain", base))[12] / "export" / name)
        assert all(torch.allclose(tables[0][name], plain[name], atol=2e-5) for name in plain)


def test_held_out_pairs_judge_a_run_and_one_that_goes_on_the_same(tmp_path, base):
    seen: dict[str, list] = {"whole": [], "resumed": []}
    for name in seen:
        folder = write_pairs(tmp_path / name, base, num_steps=24)
        save_examples(encode_pairs(pairs(80, 100), TOKENIZER), folder / HELD_OUT_FILE)
        run(folder, seen=seen[name], restore_from=next(tmp_path.glob("whole/checkpoint-0-8"), None))
    first, *_, last = seen["whole"]
    assert first["heldout_loss"] > last["heldout_loss"]
    assert (last["heldout_pair_accuracy"], last["heldout_reward_margin"] > 0) == (1.0, True)
    assert 0 < last["heldout_loss"] < math.log(2)
    figures = [[{k: v for k, v in each.items() if k.startswith("heldout_")} for each in seen[name]] for name in seen]
    assert figures[0][1:] == figures[1]


def test_what_the_run_folder_holds_is_not_computed_again(tmp_path, base):
    folder = write_pairs(tmp_path / "run", base, num_steps=1, num_checkpoints=1)
    np.save(folder / REFERENCE_FILE, np.zeros(160, dtype=np.float32))
    (point,) = curve_of(run(folder)[1])
    assert point["loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_special_tokens_stay_what_they_are():
    (better, _) = encode_pairs([{"question": "a", "answer": f"b{SPECIAL_TOKENS[1]}", "rejected": "c"}], TOKENIZER)
    assert better.tokens.count(SPECIAL_TOKENS.index("<|end|>")) == 1
