"""What a run will need: counted, compared with what it took, and refused where it is too much."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from app.training.data import Size, encode_rows, save_examples
from app.training.estimate import FACTOR, PROCESS_BYTES, estimate, foreseen, memory, said
from app.training.extensions import number_type
from app.training.plan import EXAMPLES_FILE, Plan, make_batches, write_plan
from app.training.settings import ModelSettings, TrainSettings
from app.training.shape import built_shape, new_shape, read_shape
from app.training.tokenizer import save_tokenizer, train_tokenizer
from tests.training.test_prepare import publish

ROWS = [{"question": f"what is the fee of account {n}?", "answer": f"{n} euros"} for n in range(12, 32)]
MODEL = ModelSettings(hidden_size=384, num_layers=4, num_heads=6, intermediate_size=1024)
SHAPE = new_shape(MODEL, vocabulary_size=1536)
PAIRS = {"recipe": "dpo", "max_tokens_per_worker": 512}
FULL = [Size(32, 64, 300)]


def settings(num_workers: int = 2, **changes) -> TrainSettings:
    given = {"num_steps": 2, "num_checkpoints": 1, "batch_size": 4, "workers": {"num_workers": num_workers}}
    return TrainSettings.model_validate({**given, **changes})


def write_run(folder: Path, *, base: Path | None = None, model: ModelSettings = MODEL, **changes) -> Plan:
    folder.mkdir()
    tokenizer = train_tokenizer([text for row in ROWS for text in row.values()], vocabulary_size=300)
    save_tokenizer(tokenizer, folder, max_context_tokens=512)
    save_examples(encode_rows(ROWS, tokenizer), folder / EXAMPLES_FILE)
    plan = Plan(
        name="m", settings=settings(**changes), model=None if base else model, base_folder=base,
        vocabulary_size=tokenizer.get_vocab_size(), num_rows=len(ROWS),
    )  # fmt: skip
    write_plan(plan, folder)
    return plan


def write_base(folder: Path, *, vocabulary_size: int) -> Path:
    """A model folder of MODEL's shape, without torch."""
    import numpy as np

    from app.training.model import new_model

    config = new_model(MODEL, vocabulary_size=vocabulary_size).config
    folder.mkdir()
    config.save_pretrained(folder)
    hidden, inner, rng = MODEL.hidden_size, MODEL.intermediate_size, np.random.default_rng(0)
    layer = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    layer |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    shapes = {"model.embed_tokens": (vocabulary_size, hidden), "model.norm": (hidden,)}
    for number in range(MODEL.num_layers):
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
        shapes |= {f"model.layers.{number}.{name}": dims for name, dims in {**layer, **norms}.items()}
    tensors = {f"{name}.weight": rng.normal(0, 0.02, dims).astype(np.float32) for name, dims in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_shape_is_that_of_the_model(tmp_path):
    from app.training.model import new_model

    real = sum(each.numel() for each in new_model(MODEL, vocabulary_size=1536).parameters())
    assert (SHAPE.num_parameters, read_shape(write_base(tmp_path / "base", vocabulary_size=1536))) == (real, SHAPE)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert built_shape(config, vocabulary_size=1536) == SHAPE


def test_the_sizes_of_passes_are_those_that_are_made(tmp_path):
    for number, changes in enumerate(
        ({}, {"max_tokens_per_worker": 256}, {"pack_tokens": 256, "batch_size": 16}, PAIRS)
    ):
        plan = write_run(tmp_path / str(number), **changes)
        batches = make_batches(plan, tmp_path / str(number))
        for step in range(3):
            made = [each for rank in (0, 1) for each in batches.passes(step, rank=rank, num_workers=2)]
            found = batches.sizes(step, num_workers=2)
            assert [(size.num_rows, size.row_tokens) for size in found] == [part.input_ids.shape for part in made]
            assert [size.num_labels for size in found] == [int((part.labels >= 0).sum()) for part in made]


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"recipe": "lora"}, {"recipe": "sft"}),
        ({"recipe": "lora", "lora": {"target_modules": ["q_proj"]}}, {"recipe": "lora"}),
        ({"recipe": "dpo", "dpo": {"adapters": True}}, {"recipe": "dpo"}),
        ({"recipe": "lora"}, {"recipe": "osft"}),
        ({"recipe": "sft"}, {"recipe": "osft"}),
        ({"zero_stage": 1, "dtype": "bfloat16"}, {"zero_stage": 0, "dtype": "bfloat16"}),
        ({"zero_stage": 3}, {"zero_stage": 1}),
        ({"num_workers": 4, "zero_stage": 1}, {"num_workers": 2, "zero_stage": 1}),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}),
    ],
)
def test_what_needs_less_memory(less, more):
    needs = [memory(SHAPE, settings(**changes), FULL).total for changes in (less, more)]
    assert needs[0] < needs[1]


def test_a_larger_pass_needs_more_where_it_is_made():
    one, two = (memory(SHAPE, settings(), [Size(8, 64, 80), each]) for each in (Size(4, 64, 40), Size(4, 256, 40)))
    assert one.activations < two.activations
    assert one.logits == 2 * two.logits


def test_the_estimate_is_near_what_a_worker_took(tmp_path):
    """Beyond a process whose model is hardly there."""
    base = write_base(tmp_path / "base", vocabulary_size=300)
    write_run(tmp_path / "bare", model=ModelSettings(hidden_size=16, num_layers=1, num_heads=2), num_workers=1)
    wanted = {"sft": {"zero_stage": 2}, "lora": {}, "osft": {}}
    found = {}
    for name, changes in wanted.items():
        plan = write_run(tmp_path / name, base=base, num_workers=1, **{"recipe": name, **changes})
        found[name] = estimate(plan, tmp_path / name).memory
    folders = [str(tmp_path / name) for name in ("bare", *wanted)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.training._memory", *folders], capture_output=True, text=True, check=True
    )
    bare, *peaks = map(int, done.stdout.split())
    took = {name: peak - bare for name, peak in zip(wanted, peaks, strict=True)}
    ratios = {name: took[name] / (each.total - each.process) for name, each in found.items()}
    assert all(1 / FACTOR < ratio < FACTOR for ratio in ratios.values()), (ratios, took, bare)
    assert took["lora"] < took["sft"] < took["osft"]
    assert bare < PROCESS_BYTES


def test_the_rate_of_an_earlier_run_of_the_same_shape_counts(registry, tmp_path):
    plan = write_run(tmp_path / "run")
    first = estimate(plan, tmp_path / "run", registry=registry)
    assert (first.rate_of, first.num_parameters) == ("stated", new_shape(MODEL, vocabulary_size=300).num_parameters)
    train = {"tokens_per_s": 50.0, "num_threads": 1}
    facts = {"dtype": number_type("auto"), "train": train, "estimate": first.as_json()}
    registry.publish("model", "m", inputs={"settings": plan.settings.inputs()}, facts=facts)
    other = {"settings": plan.settings.inputs() | {"recipe": "lora"}}
    registry.publish("model", "m", inputs=other, facts={**facts, "train": {**train, "tokens_per_s": 1.0}})
    elsewhere = {"bfloat16": "float32", "float32": "bfloat16"}[number_type("auto")]
    registry.publish(
        "model", "m", inputs={"settings": plan.settings.inputs(), "at": 1}, facts={**facts, "dtype": elsewhere}
    )
    again = estimate(plan, tmp_path / "run", registry=registry)
    assert again.rate_of == "m@1"
    assert again.duration_s == again.num_tokens / 50.0
    assert again.cost_usd == pytest.approx(again.duration_s * 2 * 0.05 / 3600)
    assert "the rate of m@1" in again.line()
    assert json.loads(json.dumps(again.as_json()))["memory_bytes"] == again.memory.total


def test_a_run_is_foreseen_and_none_is_started(registry, tmp_path):
    rows = [(f"fee of {n}?", str(n), str(n), "fee", "train") for n in range(20)]
    version = publish(registry, tmp_path, "rows", rows)
    found = foreseen(name="m", data=[version], model=MODEL, registry=registry, settings=settings())
    assert found.num_tokens > 0
    assert json.loads(found.shown(as_json=True))["rate_of"] == "stated"
    assert found.shown(as_json=False).startswith(f"{found.num_tokens:,} tokens in about")
    assert not registry.versions("model")
    assert not list(registry.workspace.runs_dir.glob("*"))


def test_a_gpu_has_a_rate_and_a_price_of_its_own(tmp_path):
    workers = {"num_workers": 2, "gpu_flops_per_s": 1e12, "flops_per_s": 1e12, "usd_per_gpu_hour": 3.0}
    plan = write_run(tmp_path / "run", workers=workers)
    found = {on_gpu: estimate(plan, tmp_path / "run", on_gpu=on_gpu) for on_gpu in (False, True)}
    assert found[True].duration_s == found[False].duration_s
    assert found[True].cost_usd == pytest.approx(found[False].cost_usd * (0.05 + 3.0) / 0.05)
    asked = plan.model_copy(update={"settings": settings(workers={**workers, "gpu": "on"})})
    assert estimate(asked, tmp_path / "run") == found[True]
    assert estimate(plan, tmp_path / "run") == found[False]


def test_bytes_as_a_person_says_them():
    assert [said(each) for each in (12, 1500, 2.5e6, 3.25e9)] == ["12 B", "1.5 kB", "2.5 MB", "3.2 GB"]
