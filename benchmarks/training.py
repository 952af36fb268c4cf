"""Training: tokens a second and peak memory of the worker loop, beside a plain PyTorch loop and Hugging Face's Trainer.

All take the same steps on the same batches of one new model, each in processes of its own, in turns; a ratio is the
median over the rounds of one round's. The rows are instructions with their answers (Alpaca); tokens are those of the
rows, padding not counted. ``osft_step_vs_sft_step`` is the median step of orthogonal subspace fine-tuning over that of
full fine-tuning, in the same loop. ``packed`` lays rows end to end, ``shuffled`` pads rows as they come, and all others
pad rows that are grouped by length. The loop is the one that Ray Train runs in its workers; Ray itself is not started.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from app.core.errors import exit_status
from app.core.files import FileUnusable
from app.training.data import encode_rows, save_examples
from app.training.plan import EXAMPLES_FILE, Plan, write_plan
from app.training.settings import ModelSettings, TrainSettings
from app.training.tokenizer import train_tokenizer
from benchmarks._record import record, write
from benchmarks._train_loops import Figures, measured
from benchmarks._training_gpu import SHAPES, measure, why_not

MODEL = ModelSettings(hidden_size=448, num_layers=4, num_heads=7, intermediate_size=1152, vocabulary_size=4096)
GPU_ROWS = 2
"""Of a step on a GPU."""
NUM_SKIPPED = 3
"""Steps before the clock counts: kernels are chosen, memory grows."""

SAID = {
    "one_worker": "ours, one worker",
    "two_workers": "ours, two workers",
    "packed": "ours, packed",
    "osft": "ours, orthogonal subspaces",
    "shuffled": "ours, padded as rows come",
    "plain_torch": "plain PyTorch",
    "hf_trainer": "Hugging Face Trainer",
}
SAID_OF_RATIOS = {
    "tokens_per_s_vs_plain_torch": "one worker over plain PyTorch",
    "tokens_per_s_vs_hf_trainer": "one worker over the Trainer",
    "two_workers_vs_one": "two workers over one",
    "packed_vs_padded_at_random": "packed over padded as rows come",
    "grouped_vs_padded_at_random": "grouped by length over padded as rows come",
    "osft_step_vs_sft_step": "a step in orthogonal subspaces over a full step",
}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    rows: Annotated[
        Path | None, typer.Option(help="Alpaca rows, JSON lines, gzip allowed. Default: a small set made up.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of each loop in a round, three more are not timed.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds over all loops; the median counts.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Rows of a step.")] = 32,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Measure Qwen3's shapes on a GPU; without one, say so and write `skipped`.")
    ] = False,
    row_tokens: Annotated[int, typer.Option(help="Tokens of a row of --gpu, whose steps have 2 rows.")] = 4096,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
) -> None:
    """Measure the training loop."""
    if gpu:
        with exit_status():
            on_gpu(steps=steps, row_tokens=row_tokens, out=out)
        return
    with exit_status(), tempfile.TemporaryDirectory(prefix="signalbox-bench-") as folder:
        given = read_rows(rows) if rows else made_up()
        contenders = prepare(given, Path(folder), num_steps=steps + NUM_SKIPPED, batch_size=batch_size)
        found = [run_round(contenders, number) for number in range(rounds)]
        params = {"rows": rows and rows.name, "num_rows": len(given), "steps": steps, "rounds": rounds}
        params |= {"batch_size": batch_size, "model": MODEL.model_dump(), "gpu": "skipped: there is none"}
        whole = record("training", params=params, **summary(found))
        print(table(whole))
        if out:
            write(whole, out)


def on_gpu(*, steps: int, row_tokens: int, out: Path | None) -> None:
    """Measure on a GPU, or say why not."""
    params: dict[str, Any] = {"steps": steps, "row_tokens": row_tokens, "batch_size": GPU_ROWS, "shapes": SHAPES}
    if reason := why_not():
        print(f"skipped: {reason}")
        whole = record("training_gpu", params=params, results={"skipped": reason}, baselines={}, ratios={})
    else:
        how = {"steps": steps + NUM_SKIPPED, "num_skipped": NUM_SKIPPED, "row_tokens": row_tokens}
        with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as folder:
            found = measure(Path(folder), batch_size=GPU_ROWS, **how)
        params["gpu"] = found["gpu"]
        whole = record("training_gpu", params=params, results=found["results"], baselines={}, ratios=found["ratios"])
    if out:
        write(whole, out)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Questions and answers of Alpaca rows.

    Raises:
        FileUnusable: the file is not one.
    """
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            raw = [json.loads(line) for line in file]
        return [
            {"question": f"{row['instruction']}\n{row.get('input') or ''}".strip(), "answer": row["output"]}
            for row in raw
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileUnusable(f"{path} is no file of Alpaca rows ({error!r}): name JSON lines") from error


def made_up() -> list[dict[str, str]]:
    """Rows of many lengths."""
    words = ["harbour", "lantern", "orchard", "fee", "rate", "account", "yearly", "monthly"]
    return [
        {"question": " ".join(words[: 2 + n % 7]), "answer": " ".join(words * (1 + n * n % 11))} for n in range(400)
    ]


def prepare(given: list[dict[str, str]], folder: Path, *, num_steps: int, batch_size: int) -> dict[str, Any]:
    """A run folder for each loop: what to call :func:`measured` with, by name."""
    texts = (text for row in given for text in row.values())
    tokenizer = train_tokenizer(texts, vocabulary_size=MODEL.vocabulary_size)
    common = {"num_steps": num_steps, "batch_size": batch_size, "num_warmup_steps": 0, "hold_share": 1.0}
    whole = TrainSettings.model_validate(common)
    longest = whole.max_row_tokens
    examples = [each for each in encode_rows(given, tokenizer) if len(each.tokens) <= longest]

    def planned(name: str, **changes: Any) -> Path:
        place = folder / name
        place.mkdir()
        save_examples(examples, place / EXAMPLES_FILE)
        settings = TrainSettings.model_validate({**common, **changes})
        plan = Plan(
            name=name,
            settings=settings,
            model=MODEL,
            vocabulary_size=tokenizer.get_vocab_size(),
            num_rows=len(examples),
        )
        write_plan(plan, place)
        return place

    sft = planned("sft")
    return {
        "one_worker": ("ours", sft, 1),
        "plain_torch": ("plain", sft, 1),
        "hf_trainer": ("trainer", sft, 1),
        "osft": ("ours", planned("osft", recipe="osft"), 1),
        "packed": ("ours", planned("packed", pack_tokens=longest), 1),
        "shuffled": ("ours_shuffled", sft, 1),
        "two_workers": ("ours", sft, 2),
    }


def run_round(contenders: Mapping[str, Any], number: int) -> dict[str, Figures]:
    """Every loop once."""
    found = {}
    for name, (loop, folder, num_workers) in contenders.items():
        found[name] = measured(loop, folder, num_workers=num_workers, num_skipped=NUM_SKIPPED)
        print(f"round {number + 1}: {name} {found[name]['tokens_per_s']:,.0f} tokens/s", flush=True)
    return found


def summary(found: list[dict[str, Figures]]) -> dict[str, Any]:
    """Results, baselines and ratios of the rounds."""

    def ratio(name: str, other: str, figure: str = "tokens_per_s") -> float:
        return median(each[name][figure] / each[other][figure] for each in found)

    middle = {name: {key: median(each[name][key] for each in found) for key in found[0][name]} for name in found[0]}
    baselines = {name: middle.pop(name) for name in ("plain_torch", "hf_trainer", "shuffled")}
    ratios = {
        "tokens_per_s_vs_plain_torch": ratio("one_worker", "plain_torch"),
        "tokens_per_s_vs_hf_trainer": ratio("one_worker", "hf_trainer"),
        "two_workers_vs_one": ratio("two_workers", "one_worker"),
        "packed_vs_padded_at_random": ratio("packed", "shuffled"),
        "grouped_vs_padded_at_random": ratio("one_worker", "shuffled"),
        "osft_step_vs_sft_step": ratio("osft", "one_worker", "step_s"),
    }
    return {"results": middle, "baselines": baselines, "ratios": ratios}


def table(figures: Mapping[str, Any]) -> str:
    """README's table; also what is printed."""
    rows, ratios = {**figures["results"], **figures["baselines"]}, figures["ratios"]
    lines = ["| loop | tokens/s | step | peak memory |", "| --- | --- | --- | --- |"]
    for name, said in SAID.items():
        each = rows[name]
        memory = f"{each['peak_memory_bytes'] / 2**30:.1f} GiB"
        lines.append(f"| {said} | {each['tokens_per_s']:,.0f} | {1000 * each['step_s']:,.0f} ms | {memory} |")
    lines += ["", "| ratio | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {SAID_OF_RATIOS[name]} | {value:.2f} |" for name, value in ratios.items())])


if __name__ == "__main__":
    app()
