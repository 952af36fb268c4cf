"""The workers' loop with one worker and no Ray: an exact resumption, and adapters that name their base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from app.training.data import encode_rows, load_examples, pad, save_examples
from app.training.model import AnswerLoss, load_model, new_model
from app.training.osft import TOLERANCE, num_kept
from app.training.plan import EXAMPLES_FILE, HELD_OUT_FILE, Plan, read_progress, worker_counts, write_plan
from app.training.settings import ModelSettings, TrainSettings
from app.training.tokenizer import save_tokenizer, train_tokenizer

pytestmark = pytest.mark.usefixtures("one_worker")
ROWS = [{"question": f"what is the fee of account {n}?", "answer": f"{n} euros"} for n in range(12, 32)]
MODEL = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
BASE = "sha256:" + "0" * 64


def write_run(folder: Path, *, base: Path | None = None, **changes) -> Path:
    folder.mkdir()
    tokenizer = train_tokenizer([text for row in ROWS for text in row.values()], vocabulary_size=300)
    save_tokenizer(tokenizer, folder, max_context_tokens=MODEL.max_context_tokens)
    examples = encode_rows(ROWS, tokenizer)
    save_examples(examples, folder / EXAMPLES_FILE)
    given = {"num_steps": 12, "num_warmup_steps": 2, "num_checkpoints": 3, "batch_size": 4, "prompt_noise": 0.1}
    plan = Plan(
        name="m",
        settings=TrainSettings.model_validate({**given, "workers": {"num_workers": 1}, **changes}),
        model=None if base else MODEL,
        base_folder=base,
        base_digest=BASE if base else None,
        vocabulary_size=tokenizer.get_vocab_size(),
        num_rows=len(examples),
    )
    write_plan(plan, folder)
    return folder


def run(folder: Path, *, restore_from: Path | None = None, seen: list | None = None) -> dict[int, Path]:
    """Copies of the checkpoints by step; what is reported goes into ``seen``."""
    from app.training.loop import run_worker

    kept: dict[int, Path] = {}

    def keep(metrics, checkpoint: Path) -> None:
        (seen if seen is not None else []).append(metrics)
        kept[metrics["step"]] = Path(shutil.move(checkpoint, folder / f"checkpoint-{len(kept)}-{metrics['step']}"))

    run_worker(folder, rank=0, num_workers=1, restore_from=restore_from, report=keep)
    return kept


@pytest.mark.parametrize(("first", "is_slow"), [("bfloat16", True), ("float32", False)])
def test_a_run_that_goes_on_elsewhere_keeps_its_type_of_numbers_and_says_where_that_is_slow(
    tmp_path, monkeypatch, first, is_slow
):
    monkeypatch.setattr("app.training.extensions.computes_bf16", lambda: first == "bfloat16")
    whole = run(write_run(tmp_path / "whole", num_steps=4, num_checkpoints=2))
    monkeypatch.setattr("app.training.extensions.computes_bf16", lambda: first != "bfloat16")
    resumed = run(write_run(tmp_path / "resumed", num_steps=4, num_checkpoints=2), restore_from=whole[2])
    assert json.loads((resumed[4] / "summary.json").read_text())["dtype"] == first
    assert next(read_progress(tmp_path / "resumed"))["is_slow"] is is_slow
    assert not next(read_progress(tmp_path / "whole"))["is_slow"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path, dtype):
    whole = run(write_run(tmp_path / "whole", dtype=dtype))
    assert sorted(whole) == [4, 8, 12]
    resumed = run(write_run(tmp_path / "resumed", dtype=dtype), restore_from=whole[4])
    assert sorted(resumed) == [8, 12]

    curves = [json.loads((each[12] / "summary.json").read_text())["curve"] for each in (whole, resumed)]
    losses = [[(point["step"], point["loss"]) for point in curve] for curve in curves]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
    exports = [(each[12] / "export" / "model.safetensors").read_bytes() for each in (whole, resumed)]
    assert exports[0] == exports[1]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_in_several_passes_is_the_same_step(tmp_path, stage):
    given = {"dtype": "float32", "zero_stage": stage, "max_row_tokens": 64}
    whole = run(write_run(tmp_path / "whole", **given))[12]
    parts = run(write_run(tmp_path / "parts", max_tokens_per_worker=64, **given))[12]
    packed = run(write_run(tmp_path / "packed", max_tokens_per_worker=64, pack_tokens=64, **given))[12]
    tables = [load_file(each / "export" / "model.safetensors") for each in (whole, parts, packed)]
    assert all(torch.allclose(tables[0][name], tables[1][name], atol=2e-5) for name in tables[0])
    assert not all(torch.allclose(tables[0][name], tables[2][name], atol=2e-5) for name in tables[0])  # other rows


def test_another_order_of_the_rows_gives_another_run(tmp_path):
    runs = [run(write_run(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    exports = [(each[12] / "export" / "model.safetensors").read_bytes() for each in runs]
    assert exports[0] != exports[1]


@pytest.mark.parametrize(("stage", "adaptive"), [(1, False), (3, False), (2, True)])
def test_a_subspace_run_keeps_its_invariants_and_resumes_exactly(tmp_path, stage, adaptive):
    """The base's largest directions are there still in what is exported, which is a plain model."""
    base = run(write_run(tmp_path / "base", num_steps=20, learning_rate=1e-2))[20] / "export"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "base" / name, base / name)
    given = {"base": base, "recipe": "osft", "learning_rate": 1e-2, "zero_stage": stage, "dtype": "float32"}
    given["osft"] = {"adaptive": adaptive, "keep_high": 0.7}  # one block: its importance is 1, as 0.3 learns else
    whole = run(write_run(tmp_path / "whole", **given))
    resumed = run(write_run(tmp_path / "resumed", **given), restore_from=whole[8])
    tables = [load_file(each[12] / "export" / "model.safetensors") for each in (whole, resumed)]
    assert tables[0].keys() == load_file(base / "model.safetensors").keys()
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])

    leaks = json.loads((whole[4] / "subspace.json").read_text())
    assert 0 < leaks["leak_master"] < TOLERANCE
    name = "model.layers.0.self_attn.q_proj.weight"
    before, after = load_file(base / "model.safetensors")[name].float(), tables[0][name]
    left = torch.linalg.svd(before.double())[0].float()[:, : num_kept(before.shape, 0.3)]
    assert (left.T @ (after - before)).norm() < 1e-4 * before.norm()
    assert (after - before).norm() > 1e-3 * before.norm()
    summary = json.loads((whole[12] / "summary.json").read_text())
    assert summary["num_parameters"] == summary["num_trained_parameters"] == sum(map(torch.numel, tables[0].values()))


def test_adapters_are_exported_alone_with_their_base_s_digest_or_merged_into_it(tmp_path):
    base = run(write_run(tmp_path / "base", num_steps=60, learning_rate=1e-2))[60] / "export"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "base" / name, base / name)
    folder = write_run(tmp_path / "lora", base=base, recipe="lora", learning_rate=1e-2)
    last = run(folder)[12]
    names = {path.name for path in (last / "export").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((last / "export" / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE
    summary = json.loads((last / "summary.json").read_text())
    assert 0 < summary["num_trained_parameters"] < summary["num_parameters"]

    from app.inference.engine import TransformersEngine

    plain, adapted = (TransformersEngine(base, adapter=adapter) for adapter in (None, last / "export"))
    question = [ROWS[0]["question"]]
    said = adapted.generate(question)[0].mean_logprob
    assert plain.generate(question)[0].mean_logprob != said

    merging = {"rank": 32, "alpha": 64, "merge": True}
    last = run(write_run(tmp_path / "merged", base=base, recipe="lora", learning_rate=1e-2, lora=merging))[12]
    assert "adapter_config.json" not in {path.name for path in (last / "export").iterdir()}
    again = json.loads((last / "summary.json").read_text())
    assert all(again[name] == value for name, value in summary.items() if name.startswith("num_"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, last / "export" / name)
    assert TransformersEngine(last / "export").generate(question)[0].mean_logprob == pytest.approx(said, abs=0.02)


@pytest.mark.parametrize(
    ("lora", "kept"),
    [
        ({"use_dora": True}, "magnitude"),
        ({"use_rslora": True, "rank": 16, "alpha": 8}, "lora_A"),
        ({"target_modules": ["q_proj", "v_proj"]}, "q_proj"),
    ],
)
def test_variants_of_adapters_are_loaded_by_plain_peft(tmp_path, lora, kept):
    base = tmp_path / "base"
    new_model(MODEL, vocabulary_size=300).save_pretrained(base)
    folder = write_run(tmp_path / "lora", base=base, recipe="lora", learning_rate=3e-2, lora=lora)
    export = run(folder)[12] / "export"
    config = json.loads((export / "adapter_config.json").read_text())
    assert {
        name: sorted(config[name]) if name == "target_modules" else config[name] for name in lora if name in config
    } == {name: value for name, value in lora.items() if name in config}
    names = load_file(export / "adapter_model.safetensors")
    assert any(kept in name for name in names)
    assert any("down_proj" in name for name in names) == ("target_modules" not in lora)

    adapted = PeftModel.from_pretrained(load_model(base), export)
    losses = [loss_of(model, folder) for model in (load_model(base), adapted)]
    curve = json.loads((export.parent / "summary.json").read_text())["curve"]
    assert losses[0] == pytest.approx(curve[0]["loss"], rel=0.03)
    assert losses[1] == pytest.approx(curve[-1]["loss"], rel=0.03)
    assert losses[1] < 0.97 * losses[0]


def loss_of(model, folder: Path) -> float:
    """Mean loss of an answer's token over the examples of a run."""
    examples = load_examples(folder / EXAMPLES_FILE)
    input_ids, labels = (torch.from_numpy(each) for each in pad(examples))
    with torch.no_grad():
        return float(AnswerLoss(model.eval())(input_ids, labels, 1 / (labels[:, 1:] != -100).sum()))


def test_rows_held_out_are_judged_by_and_not_learned(tmp_path):
    plain, judged = (write_run(tmp_path / name, learning_rate=1e-2) for name in ("plain", "judged"))
    shutil.copy(judged / EXAMPLES_FILE, judged / HELD_OUT_FILE)  # as easy to learn as what is learned
    found = []
    kept = [run(plain), run(judged, seen=found)]
    exports = [(each[12] / "export" / "model.safetensors").read_bytes() for each in kept]
    assert exports[0] == exports[1]
    losses = [figures["heldout_loss"] for figures in found]
    summary = json.loads((kept[1][12] / "summary.json").read_text())
    assert losses[0] > losses[1] > losses[2] == summary["heldout_loss"]
    assert abs(losses[2] - summary["curve"][-1]["loss"]) < 1.0


def test_progress_is_written_while_it_runs(tmp_path):
    folder = write_run(tmp_path / "run", num_steps=3)
    run(folder)
    lines = list(read_progress(folder))
    assert worker_counts(lines) == [1]
    assert lines[-1]["event"] == "step"
    assert lines[-1]["step"] == 3
