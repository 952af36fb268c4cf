"""How fast does one engine answer 32 callers, beside plain `generate` and transformers' own continuous batching?

All answer the same prompts greedily with the same bounds, 8 to 64 tokens, so that answers end at different times:
`generate` one by one; `generate` on batches of 8, each as long as its longest; transformers' manager (paged cache,
prefix sharing) and this project's engine with 32 requests in flight. Answers that differ from `generate`'s are counted.
The methods alternate, and the median round counts: on a noisy machine only the ratios do.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from app.core.errors import exit_status
from app.inference.batching import Limits
from app.inference.engine import TransformersEngine
from app.inference.sampling import Sampling
from benchmarks._record import record, write

app = typer.Typer(add_completion=False)
IN_FLIGHT, STATIC, FEWEST, MOST = 32, 8, 8, 64
LIMITS = Limits(max_rows=IN_FLIGHT, prefix_tokens=16_384)
"""As in serving."""
NAMES = ["harbour", "meadow", "ferry", "orchard", "lantern", "valley", "mill", "bridge", "quarry", "chapel"]
RULES = "Answer in one sentence and name the rule that you follow. " * 12
Method = Callable[[], list[list[int]]]


@app.command()
def main(
    model: Annotated[Path | None, typer.Option(help="Folder of a model; default: 5M random parameters.")] = None,
    requests: Annotated[int, typer.Option(help="Requests of a round.", min=IN_FLIGHT)] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds of every method.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Seed of prompts, bounds and random weights.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
) -> None:
    """Tokens per second of every method, on one thread."""
    with exit_status(), tempfile.TemporaryDirectory() as folder:
        source = model or _random_model(Path(folder) / "model", seed=seed)
        figures = measure(source, Path(folder), num_requests=requests, num_rounds=rounds, seed=seed)
        for name, value in {**figures["baselines"], **figures["results"], **figures["ratios"]}.items():
            print(f"{name:36} {value:10,.2f}")
        if out:
            write(figures, out)


def measure(model: Path, folder: Path, *, num_requests: int, num_rounds: int, seed: int) -> dict[str, Any]:
    """The benchmark's figures."""
    rng = random.Random(seed)
    asked = [(_question(rng), rng.randrange(FEWEST, MOST + 1)) for _ in range(num_requests)]
    engine = TransformersEngine(model, limits=LIMITS)
    plain = _Plain(TransformersEngine(model), asked)
    few = max(num_requests // 8, 1)
    speeds: dict[str, list[float]] = {}
    differing: dict[str, int] = {}
    wanted = plain.one_by_one(few)
    for _ in range(num_rounds):
        methods: dict[str, Method] = {
            "generate_one_by_one": lambda: plain.one_by_one(few),
            "generate_batches_of_8": plain.batches,
            "transformers_continuous_batching": plain.manager,
        }
        for name, method in methods.items():
            given, took_s = _timed(method)
            speeds.setdefault(name, []).append(sum(map(len, given)) / took_s)
            differing[name] = sum(one != other for one, other in zip(given, wanted, strict=False))
        texts, speed = asyncio.run(_in_flight([engine] * num_requests, asked))
        speeds.setdefault("engine", []).append(speed)
        differing["engine"] = sum(text != plain.text(ids) for text, ids in zip(texts, wanted, strict=False))
        for name, speed in _more(model, folder, asked, seed=seed).items():
            speeds.setdefault(name, []).append(speed)
    found = {f"{name}_tokens_per_s": statistics.median(values) for name, values in speeds.items()}
    ours = [name for name in speeds if name.startswith("engine")]
    plain_ones = [name for name in speeds if name not in ours]
    params = {"model": model.name, "parameters": plain.num_parameters, "requests": num_requests, "rounds": num_rounds}
    params |= {"seed": seed, "in_flight": IN_FLIGHT, "threads": torch.get_num_threads(), "differing_answers": differing}
    return record(
        "engine",
        params=params,
        results={f"{name}_tokens_per_s": found[f"{name}_tokens_per_s"] for name in ours},
        baselines={f"{name}_tokens_per_s": found[f"{name}_tokens_per_s"] for name in plain_ones},
        ratios={
            f"engine_vs_{name}": found["engine_tokens_per_s"] / found[f"{name}_tokens_per_s"] for name in plain_ones
        }
        | {
            "mixed_adapters_vs_merged": _ratio(found, "four_mixed_adapters", "one_merged_adapter"),
            "prefix_cache_vs_none": _ratio(found, "long_prompts_prefix_cache", "long_prompts"),
        },
    )


def _ratio(found: dict[str, float], one: str, other: str) -> float:
    return found[f"engine_{one}_tokens_per_s"] / found[f"engine_{other}_tokens_per_s"]


def _more(model: Path, folder: Path, asked: Sequence[tuple[str, int]], *, seed: int) -> dict[str, float]:
    """The engine with adapters, and with a long beginning that all prompts share."""
    paths = [_random_adapter(model, folder / f"adapter-{number}", seed=seed + number) for number in range(4)]
    base = TransformersEngine(model, limits=LIMITS)
    views = [base.adapted(path) for path in paths]
    mixed = [views[number % 4] for number in range(len(asked))]
    merged = [TransformersEngine(model, adapter=paths[0], limits=LIMITS)] * len(asked)
    apart = [TransformersEngine(model, limits=Limits(max_rows=IN_FLIGHT))] * len(asked)
    same = [TransformersEngine(model, limits=LIMITS)] * len(asked)
    long = [([{"role": "system", "content": RULES}, {"role": "user", "content": text}], num) for text, num in asked]
    cases = {
        "engine_one_merged_adapter": (merged, asked),
        "engine_four_mixed_adapters": (mixed, asked),
        "engine_long_prompts": (apart, long),
        "engine_long_prompts_prefix_cache": (same, long),
    }
    return {name: asyncio.run(_in_flight(engines, prompts))[1] for name, (engines, prompts) in cases.items()}


class _Plain:
    """transformers as it is, on the same tokens."""

    def __init__(self, engine: TransformersEngine, asked: Sequence[tuple[str, int]]) -> None:
        self._model, self._format, self._tokenizer = engine._model, engine._format, engine._tokenizer
        self._asked = [(engine._encode(prompt), num) for prompt, num in asked]
        self._ends = sorted(self._format.end_tokens)
        self.num_parameters = sum(each.numel() for each in self._model.parameters())

    def text(self, ids: list[int]) -> str:
        """What an answer says."""
        return str(
            self._tokenizer.decode([each for each in ids if each not in self._ends], skip_special_tokens=True)
        ).strip()

    def one_by_one(self, few: int) -> list[list[int]]:
        return [self._generate([each])[0] for each in self._asked[:few]]

    def batches(self) -> list[list[int]]:
        starts = range(0, len(self._asked), STATIC)
        return [ids for start in starts for ids in self._generate(self._asked[start : start + STATIC])]

    def _generate(self, asked: Sequence[tuple[list[int], int]]) -> list[list[int]]:
        longest = max(len(tokens) for tokens, _ in asked)
        ids = torch.tensor([[0] * (longest - len(tokens)) + tokens for tokens, _ in asked])
        mask = torch.tensor([[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens, _ in asked])
        most, options = max(num for _, num in asked), {"do_sample": False, "pad_token_id": self._format.pad_token}
        with torch.inference_mode():
            given = self._model.generate(
                ids, attention_mask=mask, max_new_tokens=most, eos_token_id=self._ends, **options
            )
        return [self._cut(row[longest:].tolist()[:num]) for row, (_, num) in zip(given, asked, strict=True)]

    def _cut(self, ids: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(ids) if token in self._ends), len(ids) - 1)
        return ids[: end + 1]

    def manager(self) -> list[list[int]]:
        """transformers' continuous batching, with as many in flight; its cache is made anew for each round."""
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        config = ContinuousBatchingConfig(
            page_size=32, num_blocks=512, max_batch_tokens=512, max_requests_per_batch=IN_FLIGHT,
            use_async_batching=False, use_cuda_graph=False, return_logprobs=True,
        )  # fmt: skip
        options = GenerationConfig(do_sample=False, eos_token_id=self._ends, pad_token_id=self._format.pad_token)
        manager = self._model.init_continuous_batching(generation_config=options, continuous_batching_config=config)
        manager.start()
        given: dict[str, list[int]] = {}
        waiting = list(enumerate(self._asked))[::-1]
        while len(given) < len(self._asked):
            while waiting and len(self._asked) - len(waiting) - len(given) < IN_FLIGHT:
                number, (tokens, num) = waiting.pop()
                manager.add_request(tokens, request_id=str(number), max_new_tokens=num)
            done = manager.get_result(timeout=60)
            given[done.request_id] = done.generated_tokens
        manager.stop(block=True)
        self._model.set_attn_implementation("sdpa")
        return [given[str(number)] for number in range(len(self._asked))]


async def _in_flight(engines: Sequence[Any], asked: Sequence[tuple[Any, int]]) -> tuple[list[str], float]:
    """Answers, and tokens per second, with so many callers at once."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(engine: Any, prompt: Any, num: int) -> Any:
        async with gate:
            return await engine.answer(prompt, Sampling(max_new_tokens=num))

    started_s = time.perf_counter()
    given = await asyncio.gather(*(one(engine, *each) for engine, each in zip(engines, asked, strict=True)))
    took_s = time.perf_counter() - started_s
    return [each.text for each in given], sum(each.num_completion_tokens for each in given) / took_s


def _timed(work: Method) -> tuple[list[list[int]], float]:
    started_s = time.perf_counter()
    return work(), time.perf_counter() - started_s


def _question(rng: random.Random) -> str:
    return " ".join(rng.choice(NAMES) for _ in range(rng.randrange(4, 24))) + "?"


def _random_model(folder: Path, *, seed: int) -> Path:
    """A Llama of five million random parameters with a tokenizer, as training makes them."""
    from app.training.model import new_model, save_model
    from app.training.settings import ModelSettings
    from app.training.tokenizer import save_tokenizer, train_tokenizer

    folder.mkdir()
    shape = ModelSettings(hidden_size=256, num_layers=6, num_heads=4, intermediate_size=688, max_context_tokens=512)
    rng = random.Random(seed)
    tokenizer = train_tokenizer([_question(rng) for _ in range(200)] + [RULES], vocabulary_size=1024)
    save_tokenizer(tokenizer, folder, max_context_tokens=512)
    torch.manual_seed(seed)
    save_model(new_model(shape, vocabulary_size=tokenizer.get_vocab_size()), folder, dtype="float32")
    return folder


def _random_adapter(model: Path, folder: Path, *, seed: int) -> Path:
    """An adapter that does all the work of one and changes next to nothing, so that answers keep their lengths."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    if not folder.exists():
        torch.manual_seed(seed)
        config = LoraConfig(r=8, lora_alpha=0.01, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    app()
