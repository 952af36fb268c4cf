"""The benchmark's formats and its ratios; its loops take the same batches and learn alike."""

import gzip
import json
from pathlib import Path

import pytest

from app.core.files import FileUnusable
from app.training.settings import ModelSettings
from benchmarks import training
from benchmarks._train_loops import measured

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
