"""The benchmark's formats and its ratios; its loops take the same batches and learn alike."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.core.files import FileUnusable
from app.training.estimate import estimate
from app.training.plan import make_batches, read_plan
from app.training.settings import ModelSettings
from benchmarks import training
from benchmarks._mfu import flops_per_token, num_weights, utilisation
from benchmarks._train_loops import measured
from benchmarks._training_gpu import CONTENDERS, SHAPES, mfu_of, ratios, settings_of, write_base, write_run

TINY = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, vocabulary_size=300)


def test_the_loops_learn_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "MODEL", TINY)
    contenders = training.prepare(training.made_up(), tmp_path, num_steps=6, batch_size=8)
    found = {}
    for name in ("one_worker", "plain_torch"):
        loop, folder, num_workers = contenders[name]
        found[name] = measured(loop, folder, num_workers=num_workers, num_skipped=2)
    ours, plain = found.values()
    assert ours["loss"] == pytest.approx(plain["loss"], abs=0.05)
    assert min(ours["tokens_per_s"], plain["tokens_per_s"], ours["step_s"]) > 0
    assert ours["peak_memory_bytes"] > 2**27


def test_alpaca_rows_are_read_and_others_refused(tmp_path: Path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"instruction": "Add.", "input": "1, 2", "output": "3"}) + "\n")
        file.write(json.dumps({"instruction": "Rest.", "input": "", "output": "Yes"}) + "\n")
    assert [row["question"] for row in training.read_rows(path)] == ["Add.\n1, 2", "Rest."]
    (tmp_path / "other.jsonl").write_text('{"question": "?"}\n')
    for other in (tmp_path / "other.jsonl", tmp_path / "missing.jsonl"):
        with pytest.raises(FileUnusable, match="Alpaca"):
            training.read_rows(other)


def test_a_ratio_is_the_median_of_the_rounds():
    names = ("one_worker", "plain_torch", "hf_trainer", "osft", "packed", "shuffled", "two_workers")
    one = {"tokens_per_s": 100.0, "step_s": 1.0, "peak_memory_bytes": 2**30}
    rounds = [{name: dict(one) for name in names} for _ in range(3)]
    for each, rate in zip(rounds, (90.0, 120.0, 300.0), strict=True):
        each["one_worker"]["tokens_per_s"] = rate
        each["osft"]["step_s"] = rate / 100
    figures = training.summary(rounds)
    ratios = figures["ratios"]
    assert ratios["tokens_per_s_vs_plain_torch"] == ratios["osft_step_vs_sft_step"] == 1.2
    assert ratios["packed_vs_padded_at_random"] == 1.0
    assert "| one worker over plain PyTorch | 1.20 |" in training.table(figures)


def test_without_a_gpu_it_says_so_and_ends_well(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "why_not", lambda: "torch sees no GPU")
    out = tmp_path / "gpu.json"
    ended = CliRunner().invoke(training.app, ["--gpu", "--out", str(out)])
    assert (ended.exit_code, ended.stdout.strip()) == (0, "skipped: torch sees no GPU")
    assert json.loads(out.read_text())["results"] == {"skipped": "torch sees no GPU"}


def test_operations_of_a_token_are_those_of_the_formula():
    """By hand for Qwen3-0.6B at 4096 tokens: 6 x 595,722,240 + 12 x 28 x 16 x 128 x 4096."""
    config = SHAPES["Qwen3-0.6B"]
    assert num_weights(config) == 28 * (2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072) + 151_936 * 1024
    assert flops_per_token(config, row_tokens=4096) == 6 * num_weights(config) + 2_818_572_288
    assert flops_per_token(config, row_tokens=4096, trained=False) == 4 * num_weights(config) + 2_818_572_288
    assert num_weights(SHAPES["Qwen3-8B"]) == pytest.approx(7.57e9, rel=0.01)
    assert utilisation(1e5, 5e9, gpu="NVIDIA H100 80GB HBM3") == pytest.approx(5e14 / 989.4e12)
    assert utilisation(1e5, 5e9, gpu="another") is None


@pytest.mark.parametrize("shape", CONTENDERS)
def test_what_would_run_on_a_gpu_is_planned(tmp_path, shape):
    tiny = {**SHAPES[shape], "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    tiny |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    base = write_base(tmp_path, tiny)
    for name, changes in CONTENDERS[shape].items():
        settings = settings_of(changes, num_steps=2, row_tokens=32, batch_size=4)
        folder = write_run(tmp_path / name, settings, tiny, base=base)
        plan = read_plan(folder)
        assert make_batches(plan, folder).num_tokens(1) == 4 * 32
        assert estimate(plan, folder).num_tokens == 2 * 4 * 32
    figures = {"tokens_per_s": 10.0, "step_s": 2.0}
    assert mfu_of(figures, SHAPES[shape], settings, gpu="H200") > 0
    names = (f"Qwen3-0.6B {name}" for name in ("sft", "hf_trainer", "osft"))
    assert ratios(dict.fromkeys(names, figures)) == {"tokens_per_s_vs_hf_trainer": 1.0, "osft_step_vs_sft_step": 1.0}
