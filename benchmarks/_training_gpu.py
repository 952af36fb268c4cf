"""`benchmarks.training --gpu`: the loop on one GPU, on models of random weights (speed does not depend on them).

Rows are as long as the model is measured at and every token of them is learned. Peak memory is what torch allocated on
the GPU. Written without a GPU at hand: what it says has been run only as far as its plans are made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.training.data import Example, save_examples
from app.training.plan import EXAMPLES_FILE, Plan, write_plan
from app.training.settings import TrainSettings
from benchmarks._mfu import flops_per_token, utilisation
from benchmarks._train_loops import Figures, measured

QWEN3 = {"model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936}
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        **QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "Qwen3-8B": {
        **QWEN3, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "max_position_embeddings": 8192, "tie_word_embeddings": False,
    },
}  # fmt: skip
SMALL, LARGE = SHAPES
AGAIN = {"checkpoint_activations": True}
CONTENDERS: dict[str, dict[str, dict[str, Any]]] = {
    SMALL: {
        "sft": {"zero_stage": 1},
        "sft_zero_2": {"zero_stage": 2},
        "sft_zero_3": {"zero_stage": 3},
        "lora": {"recipe": "lora"},
        "osft": {"recipe": "osft"},
        "hf_trainer": {"zero_stage": 1},
    },
    LARGE: {
        "lora": {"recipe": "lora", "memory": AGAIN},
        "sft_offloaded": {"zero_stage": 2, "memory": {**AGAIN, "offload_optimizer": True}},
    },
}
"""Settings of each run; of the large model only what one GPU of 80 GB holds."""


def why_not() -> str | None:
    """Why nothing can be measured here; None where it can."""
    import torch

    return None if torch.cuda.is_available() else "torch sees no GPU"


def measure(folder: Path, *, steps: int, num_skipped: int, row_tokens: int, batch_size: int) -> dict[str, Any]:
    """Every contender's figures, by the model and its name."""
    import torch

    gpu, found = torch.cuda.get_device_name(), {}
    for shape, contenders in CONTENDERS.items():
        base = write_base(folder / shape, SHAPES[shape])
        for name, changes in contenders.items():
            settings = settings_of(changes, num_steps=steps, row_tokens=row_tokens, batch_size=batch_size)
            place = write_run(folder / shape / name, settings, SHAPES[shape], base=base)
            loop = "trainer" if name == "hf_trainer" else "ours"
            figures = measured(loop, place, num_skipped=num_skipped, on_gpu=True)
            found[f"{shape} {name}"] = {**figures, "mfu": mfu_of(figures, SHAPES[shape], settings, gpu=gpu)}
            print(f"{shape} {name}: {found[f'{shape} {name}']}", flush=True)
    return {"gpu": gpu, "results": found, "ratios": ratios(found)}


def settings_of(changes: Mapping[str, Any], *, num_steps: int, row_tokens: int, batch_size: int) -> TrainSettings:
    """A recipe in bf16, at one learning rate, of rows of one length."""
    common = {"num_steps": num_steps, "batch_size": batch_size, "num_warmup_steps": 0, "hold_share": 1.0}
    common |= {"learning_rate": 1e-5, "max_row_tokens": row_tokens, "workers": {"num_workers": 1, "gpu": "on"}}
    return TrainSettings.model_validate({**common, **changes})


def write_run(folder: Path, settings: TrainSettings, config: Mapping[str, Any], *, base: Path) -> Path:
    """A run folder of random rows."""
    folder.mkdir(parents=True)
    shape = (settings.batch_size * settings.num_steps, settings.max_row_tokens)
    rows = np.random.default_rng(0).integers(4, config["vocab_size"], shape)
    save_examples([Example(row.tolist(), 0) for row in rows], folder / EXAMPLES_FILE)
    plan = Plan(
        name=folder.name, settings=settings, base_folder=base, base_digest="sha256:0",
        vocabulary_size=config["vocab_size"], num_rows=len(rows),
    )  # fmt: skip
    write_plan(plan, folder)
    return folder


def write_base(folder: Path, config: Mapping[str, Any]) -> Path:
    """A model of random weights, in bf16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    made = AutoConfig.for_model(**config)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16).save_pretrained(folder / "base")
    return folder / "base"


def mfu_of(figures: Figures, config: Mapping[str, Any], settings: TrainSettings, *, gpu: str) -> float | None:
    """Utilisation at a run's speed."""
    flops = flops_per_token(config, row_tokens=settings.max_row_tokens, trained=not settings.by_adapters)
    return utilisation(figures["tokens_per_s"], flops, gpu=gpu)


def ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The two that have a goal: beside the Trainer, and a step of `osft` over one of `sft`."""
    ours, theirs, osft = (found[f"{SMALL} {name}"] for name in ("sft", "hf_trainer", "osft"))
    return {
        "tokens_per_s_vs_hf_trainer": ours["tokens_per_s"] / theirs["tokens_per_s"],
        "osft_step_vs_sft_step": osft["step_s"] / ours["step_s"],
    }
